"""The official Cityscapes metric on small folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detector.errors import DatasetError
from detector.evaluation.cityscapes import evaluate_cityscapes
from detector.structures import masks
from detector.structures.samples import Detections

NAMES = {1: "ulm/ulm_000000_000019_leftImg8bit.png", 2: "ulm/ulm_000001_000019_leftImg8bit.png"}
CLASSES = ("car", "person")
SIZE = (40, 60)


def rectangle(x: int, y: int, width: int, height: int) -> np.ndarray:
    """A filled rectangle."""
    bitmap = np.zeros(SIZE, np.uint8)
    bitmap[y : y + height, x : x + width] = 1
    return bitmap


CAR, PERSON, GROUP = rectangle(2, 2, 20, 20), rectangle(30, 5, 12, 30), rectangle(2, 24, 20, 14)


def write_truth(root: Path, objects: dict[int, list[tuple[int, np.ndarray]]]) -> Path:
    """Instance maps: (instance id, bitmap) per image; the rest is road (7)."""
    for image_id, name in NAMES.items():
        pixels = np.full(SIZE, 7, np.uint16)
        for instance, bitmap in objects.get(image_id, []):
            pixels[bitmap > 0] = instance
        path = root / name.replace("_leftImg8bit", "_gtFine_instanceIds")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)
    return root


def found(*rows: tuple[np.ndarray, float, int]) -> Detections:
    """Detections from (bitmap, score, label)."""
    return Detections(
        boxes=torch.zeros(len(rows), 4),
        scores=torch.tensor([r[1] for r in rows]),
        labels=torch.tensor([r[2] for r in rows], dtype=torch.int64),
        masks=[masks.encode(r[0]) for r in rows],
    )


def evaluate(tmp_path: Path, results, *, gt: str = "gt", out: str = "out"):
    return evaluate_cityscapes(
        results, file_names=NAMES, class_names=CLASSES, gt_dir=tmp_path / gt, out_dir=tmp_path / out
    )


def test_a_perfect_result_scores_one_and_classes_without_truth_are_left_out(tmp_path, capsys):
    write_truth(tmp_path / "gt", {1: [(26000, CAR), (24000, PERSON)]})
    values = evaluate(tmp_path, {1: found((CAR, 0.9, 0), (PERSON, 0.8, 1))})
    keys = {f"cityscapes_{ap}{name}" for ap in ("AP", "AP50") for name in ("", "/car", "/person")}
    assert values == dict.fromkeys(keys, 1.0)
    assert capsys.readouterr().out == ""


def test_a_hand_computed_case(tmp_path):
    """Two cars, one found with IoU 0.75 (15 of 20 columns): area 1/2 at the 5 overlaps 0.5 to 0.7, then 0."""
    write_truth(tmp_path / "gt", {1: [(26000, CAR)], 2: [(26000, CAR)]})
    values = evaluate(tmp_path, {1: found((rectangle(2, 2, 15, 20), 0.9, 0))})
    assert values["cityscapes_AP50"] == pytest.approx(0.5)
    assert values["cityscapes_AP"] == pytest.approx(0.25)


def test_predictions_in_a_group_are_ignored_also_when_nothing_else_is_there(tmp_path):
    write_truth(tmp_path / "gt", {1: [(26000, CAR), (26, GROUP)]})
    assert evaluate(tmp_path, {1: found((CAR, 0.5, 0), (GROUP, 0.9, 0))})["cityscapes_AP"] == 1.0
    assert evaluate(tmp_path, {1: found((GROUP, 0.9, 0))})["cityscapes_AP"] == 0.0


def test_two_calls_share_nothing(tmp_path, monkeypatch):
    """Same names and output folder, other truth and predictions; the current folder stays empty."""
    work = tmp_path / "cwd"
    work.mkdir()
    monkeypatch.chdir(work)
    write_truth(tmp_path / "gt", {1: [(26000, CAR)]})
    assert evaluate(tmp_path, {1: found((CAR, 0.9, 0), (PERSON, 0.9, 1))})["cityscapes_AP"] == 1.0
    write_truth(tmp_path / "gt", {1: [(24000, PERSON)]})
    assert evaluate(tmp_path, {1: found((CAR, 0.9, 0))}) == {
        "cityscapes_AP": 0.0,
        "cityscapes_AP50": 0.0,
        "cityscapes_AP/person": 0.0,
        "cityscapes_AP50/person": 0.0,
    }
    assert list(work.iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["ulm_000000_000019_0_car.png"]


def test_no_predictions_score_zero(tmp_path):
    write_truth(tmp_path / "gt", {1: [(26000, CAR)]})
    assert evaluate(tmp_path, {})["cityscapes_AP"] == 0.0


@pytest.mark.parametrize(
    ("objects", "results", "message"),
    [
        (None, {}, "instance map"),
        ({}, {}, "no object"),
        (
            {1: [(26000, CAR)]},
            {1: Detections(torch.zeros(1, 4), torch.ones(1), torch.zeros(1).long())},
            "without masks",
        ),
        ({1: [(26000, CAR)]}, {1: found((CAR, 0.5, 4))}, "label 4"),
    ],
)
def test_what_cannot_be_scored_is_named(tmp_path, objects, results, message):
    if objects is not None:
        write_truth(tmp_path / "gt", objects)
    with pytest.raises(DatasetError, match=message):
        evaluate(tmp_path, results)
