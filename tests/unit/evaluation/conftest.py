from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def info(tmp_path: Path) -> Path:
    """Image info of two images of 10 x 20 pixels, without annotations."""
    images = [
        {"id": i, "file_name": f"ulm/ulm_00000{n}_000019_leftImg8bit.png", "height": 10, "width": 20}
        for n, i in enumerate((7, 9))
    ]
    categories = [{"id": 24, "name": "person"}, {"id": 26, "name": "car"}]
    path = tmp_path / "image_info_test-dev2017.json"
    path.write_text(json.dumps({"images": images, "categories": categories}))
    return path
