"""A real data set and a real checkpoint of the reference, where the folder DETECTOR_SHARED holds them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.cli import main

SHARED = os.environ.get("DETECTOR_SHARED", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED, reason="DETECTOR_SHARED does not name the folder of the large files"),
]
CHECKPOINT = Path(SHARED) / "golden" / "checkpoint"
BCCD = Path(SHARED) / "data" / "bccd"


def without_ids(document: dict[str, Any]) -> list[Any]:
    """Boxes per file name, with the class names."""
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    files = {entry["id"]: Path(entry["file_name"]).name for entry in document["images"]}
    return sorted(
        [files[entry["image_id"]], names[entry["category_id"]], *entry["bbox"]]
        for entry in document["annotations"]
    )


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_converted_annotations_are_those_of_the_reference_training(split: str, tmp_path: Path) -> None:
    assert main(["convert", "pascal_voc", str(BCCD), "--out-format", "coco", "--out-dir", str(tmp_path)]) == 0
    ours = json.loads((tmp_path / f"{split}.json").read_text())
    theirs = json.loads((CHECKPOINT / "annotations" / f"{split}.json").read_text())
    assert without_ids(ours) == without_ids(theirs)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], list[list[Any]]]:
    """What `detector test` says and saves of the reference's checkpoint with its unmodified config."""
    folder = tmp_path_factory.mktemp("reference")
    options = [
        f"data.test.ann_file={CHECKPOINT / 'annotations' / 'test.json'}",
        f"data.test.img_prefix={BCCD / 'JPEGImages'}",
        "data.test_dataloader.samples_per_gpu=4",
    ]
    arguments = [
        "test", str(CHECKPOINT / "faster_rcnn_r18_bccd.py"),
        str(CHECKPOINT / "faster_rcnn_r18_bccd_epoch_4.pth"),
        "--eval", "bbox", "--out", str(folder / "results.pkl"), "--work-dir", str(folder),
    ]  # fmt: skip
    assert main([*arguments, "--cfg-options", *options]) == 0
    metrics = json.loads(next(folder.glob("eval_*.json")).read_text())["metric"]
    return metrics, pickle.loads((folder / "results.pkl").read_bytes())


def test_the_reference_checkpoint_scores_as_in_the_reference(
    tested: tuple[dict[str, float], list[list[Any]]],
) -> None:
    expected = json.loads((CHECKPOINT / "expected.json").read_text())["epoch_4"]["test"]
    found = {key: tested[0][key] for key in expected if key.startswith("bbox_mAP")}
    assert found == pytest.approx({key: expected[key] for key in found}, abs=0.0005)
    assert len(found) == 6


def test_the_reference_checkpoint_finds_what_it_finds_in_the_reference(
    tested: tuple[dict[str, float], list[list[Any]]],
) -> None:
    """Counts are equal; 98 of 100 boxes have a partner within 0.05 pixels and 1e-4 in score."""
    expected = pickle.loads((CHECKPOINT / "results_test.pkl").read_bytes())
    rows = matched = 0
    for ours, theirs in zip(tested[1], expected, strict=True):
        for found, wanted in zip(ours, theirs, strict=True):
            assert abs(len(found) - len(wanted)) <= 1
            rows += len(wanted)
            if len(found) == 0 or len(wanted) == 0:
                continue
            far = np.abs(found[None] - wanted[:, None]) > np.array([0.05, 0.05, 0.05, 0.05, 1e-4])
            matched += int((~far.any(axis=2)).any(axis=1).sum())
    assert matched >= 0.98 * rows
