from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.errors import DatasetError
from detector.evaluation.report import PrCurve
from detector.visualize import charts

RECALL = np.linspace(0, 1, 101)
CURVE = PrCurve(RECALL, 1 - RECALL)


def shape(path: Path) -> tuple[int, int]:
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.std() > 5, "something is drawn"
    return picture.shape[:2]


@pytest.mark.parametrize("kinds", [[], ["bbox"], ["bbox", "segm"]], ids=len)
def test_precision_over_recall_has_a_panel_per_kind(tmp_path: Path, kinds: list[str]) -> None:
    by_class = {"bbox": {f"class {i}": CURVE for i in range(20)}}
    path = charts.precision_recall(
        dict.fromkeys(kinds, CURVE), by_class, tmp_path / "a" / "pr.png", title="t"
    )
    height, width = shape(path)
    assert width / height == pytest.approx(6.4 * max(1, len(kinds)) / 5.4, rel=0.02)


@pytest.mark.parametrize("classes", [1, 30, 130], ids=["one", "without numbers", "without names"])
def test_confusion_matrix_is_drawn(tmp_path: Path, classes: int) -> None:
    counts = np.eye(classes + 1, dtype=int) * 3
    height, width = shape(charts.confusion(counts, [f"c{i}" for i in range(classes)], tmp_path / "c.png"))
    assert height == width


def test_confusion_matrix_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"found shape \(2, 2\); expected \(3, 3\)"):
        charts.confusion(np.zeros((2, 2)), ["a", "b"], tmp_path / "c.png")


def test_bars_compare_runs_and_a_missing_number_is_no_bar(tmp_path: Path) -> None:
    values = {"bbox_mAP": [0.3, math.nan], "segm_mAP": [0.2, 0.25], "PQ": [0.1, 0.2], "AR": [0.4, 0.5]}
    shape(charts.bars(values, ["a\nseed 0", "a\nseed 1"], tmp_path / "bars.png"))


def test_a_place_that_is_not_writable_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot write the picture"):
        charts.bars({"a": [1.0]}, ["x"], tmp_path / "file" / "b.png")
