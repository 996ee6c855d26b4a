from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import report
from tasks.request import Request

REQUEST = Request("mask_rcnn_r18_fpn_sample")


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    _ = REQUEST.loaded  # found from the project's folder
    monkeypatch.chdir(tmp_path)
    return REQUEST.run_dir


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def step(name: str, *outputs: Path) -> dict[str, Any]:
    return {"step": name, "seconds": 1.0, "outputs": [str(path) for path in outputs], "value": None}


def decoded(address: str) -> tuple[Image.Image, int]:
    data = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
    return Image.open(io.BytesIO(data)), len(data)


def test_report_shows_the_curves_and_two_pictures_of_predictions(run_dir: Path) -> None:
    picture(run_dir / "train" / "curves.png")
    drawn = [picture(run_dir / "eval" / "samples" / f"{name}.png") for name in "abc"]
    text = report.markdown(REQUEST, [step("train"), step("evaluate", drawn[0].parent)], {"bbox_mAP": 0.5})
    assert text.count("![Course of the training](data:image/webp;base64,") == 1
    assert text.count("![Truth and predictions](data:image/webp;base64,") == 2
    assert "samples/c.png" not in text
    assert "| bbox_mAP | 0.5000 |" in text


def test_report_has_no_pictures_of_what_did_not_run(run_dir: Path) -> None:
    picture(run_dir / "train" / "curves.png")
    assert "data:" not in report.markdown(REQUEST, [step("evaluate")], {})


def test_damaged_picture_is_named_and_not_shown(run_dir: Path) -> None:
    damaged = run_dir / "eval" / "a.png"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no picture")
    text = report.markdown(REQUEST, [step("evaluate", damaged)], {})
    assert "a.png" in text
    assert "data:" not in text


@pytest.mark.parametrize("size", [(40, 30), (2400, 1600)], ids=["small", "large noise"])
def test_picture_in_the_page_is_small(tmp_path: Path, size: tuple[int, int]) -> None:
    image, length = decoded(report.embedded(picture(tmp_path / "a.png", size)))
    assert length <= report.LARGEST
    assert image.width <= min(size[0], report.WIDEST)
    assert abs(image.width / image.height - size[0] / size[1]) < 0.02
