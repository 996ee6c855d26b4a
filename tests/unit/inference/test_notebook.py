"""The notebook runs, cell after cell, and is valid notebook JSON of format 4."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.unit.inference.tiny_models import image, write_model

NOTEBOOK = Path(__file__).parents[3] / "docs" / "demo.ipynb"


@pytest.fixture(scope="module")
def notebook() -> dict[str, Any]:
    book: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return book


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_every_cell_runs(
    notebook: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, checkpoint = write_model(tmp_path)
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image(96, 64, i))
    monkeypatch.setenv("DEMO_CONFIG", str(config))
    monkeypatch.setenv("DEMO_CHECKPOINT", str(checkpoint))
    monkeypatch.setenv("DEMO_IMAGES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(code_cells(notebook)):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert cv2.imread("result.png") is not None
    assert len(names["found"]) == 3
    assert len(names["results"]) == 3
    assert [frame.shape for frame in names["drawn"]] == [(64, 96, 3)] * 3
    assert names["told"] == "3 frames of 96 x 64 at 5.0 fps"
    assert max(names["largest"]) < 1e-3


def test_the_file_is_a_notebook_with_its_outputs(notebook: dict[str, Any]) -> None:
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in code_cells(notebook):
        assert {"source", "outputs", "execution_count", "metadata"} <= set(cell)
    pictures = [
        output["data"]["image/png"]
        for cell in code_cells(notebook)
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    for picture in pictures:
        content = np.frombuffer(base64.b64decode(picture), np.uint8)
        assert cv2.imdecode(content, cv2.IMREAD_COLOR).shape == (192, 384, 3)
