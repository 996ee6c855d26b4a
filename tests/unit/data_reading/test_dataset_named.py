"""Data sets whose annotation file names the classes: LVIS, Objects365, COCO panoptic."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.data.datasets import build_dataset
from detector.data.datasets.catalog import DATASETS
from detector.errors import ConfigError, DatasetError


def test_classes_come_by_category_id(ten: Any) -> None:
    section = ten.section(type="LVISV05Dataset")
    section.pop("classes")
    dataset = build_dataset(section)

    assert dataset.class_names == ("dog", "cat")  # ids 3 and 7
    assert dataset.cat_ids == (3, 7)
    assert dataset[0][1].labels.tolist() == [1, 0]
    assert len(dataset.palette) == 2


def test_another_number_of_classes_than_published_is_said(ten: Any, caplog: Any) -> None:
    section = ten.section(type="Objects365V1Dataset")
    section.pop("classes")
    with caplog.at_level(logging.WARNING):
        build_dataset(section)
    assert "names 2 categories" in caplog.text
    assert "have 365" in caplog.text


def test_given_classes_win(ten: Any) -> None:
    dataset = build_dataset(ten.section(type="LVISV05Dataset", classes="cat"))
    assert dataset.class_names == ("cat",)


@pytest.mark.parametrize(
    ("kind", "entry", "expected"),
    [
        ("LVISV05Dataset", {"file_name": "COCO_val2014_000000266409.jpg"}, "000000266409.jpg"),
        ("LVISDataset", {"file_name": "000000266409.jpg"}, "000000266409.jpg"),
        (
            "LVISV1Dataset",
            {"coco_url": "http://images.cocodataset.org/val2017/000000266409.jpg"},
            "val2017/000000266409.jpg",
        ),
        (
            "Objects365V2Dataset",
            {"file_name": "images/v1/patch8/objects365_v1_1.jpg"},
            "patch8/objects365_v1_1.jpg",
        ),
        ("Objects365V1Dataset", {"file_name": "obj365_train_1.jpg"}, "obj365_train_1.jpg"),
    ],
)
def test_file_names(ten: Any, kind: str, entry: dict[str, str], expected: str) -> None:
    ten.content["images"][0].update(entry)
    for image in ten.content["images"][1:]:
        image.setdefault("coco_url", "http://x/train2017/1.jpg")
    assert build_dataset(ten.section(type=kind)).image_info(0)["file_name"] == expected


def test_lvis_v1_needs_the_address(ten: Any) -> None:
    with pytest.raises(DatasetError, match="has no 'coco_url'"):
        build_dataset(ten.section(type="LVISV1Dataset"))


def test_a_published_lvis_file_reads() -> None:
    shared = os.environ.get("DETECTOR_SHARED")
    if not shared:
        pytest.skip("DETECTOR_SHARED names no folder with data/lvis_eval")
    pipeline = [{"type": "LoadImageFromFile"}]
    path = Path(shared) / "data" / "lvis_eval" / "lvis_val_100.json"
    dataset = build_dataset(
        {"type": "LVISV05Dataset", "ann_file": str(path), "img_prefix": "x", "pipeline": pipeline},
        test_mode=True,
    )
    content = json.loads(path.read_text())

    assert len(dataset) == 100
    assert len(dataset.class_names) == 1230
    assert dataset.class_names == tuple(c["name"] for c in content["categories"])
    assert dataset.class_names[:2] == ("acorn", "aerosol_can")
    assert dataset.cat_ids == tuple(range(1, 1231))
    assert sum(len(dataset.labels(i)) for i in range(100)) == len(content["annotations"]) == 977
    assert not [i for i in range(100) if not dataset.image_info(i)["file_name"][:12].isdigit()]


def test_palettes_fit_the_classes() -> None:
    wrong = {
        name: (len(kind.PALETTE), len(kind.CLASSES))
        for name, kind in DATASETS.items()
        if kind.PALETTE and len(kind.PALETTE) != len(kind.CLASSES)
    }
    assert not wrong


@pytest.fixture
def panoptic(tmp_path: Path) -> dict[str, Any]:
    """One image: a person (region 7), a crowd of dogs (300), sky (70000); and one of sky alone."""
    ids = np.zeros((40, 50), np.int64)
    ids[5:15, 10:20], ids[20:30, 0:25], ids[35:, :] = 7, 300, 70000
    colours = np.stack([ids // 65536, ids // 256 % 256, ids % 256], axis=-1).astype(np.uint8)  # BGR
    segments = [
        {"id": 70000, "category_id": 92, "iscrowd": 0, "bbox": [0, 35, 50, 5], "area": 250},
        {"id": 7, "category_id": 1, "iscrowd": 0, "bbox": [10, 5, 10, 10], "area": 100},
        {"id": 300, "category_id": 18, "iscrowd": 1, "bbox": [0, 20, 25, 10], "area": 250},
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 50} for i in (1, 2)],
        "annotations": [
            {"image_id": 1, "file_name": "1.png", "segments_info": segments},
            {"image_id": 2, "file_name": "2.png", "segments_info": segments[:1]},
        ],
        "categories": [
            {"id": 92, "name": "sky", "isthing": 0},
            {"id": 1, "name": "person", "isthing": 1},
            {"id": 18, "name": "dog", "isthing": 1},
        ],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), np.full((40, 50, 3), 9, np.uint8))
        cv2.imwrite(str(tmp_path / f"{i}.png"), colours)
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadPanopticAnnotations"},
        {"type": "RandomFlip", "flip_ratio": 1.0},
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels", "gt_masks", "gt_semantic_seg"]},
    ]
    return {
        "type": "CocoPanopticDataset",
        "data_root": str(tmp_path),
        "ann_file": "panoptic.json",
        "img_prefix": "",
        "seg_prefix": "",
        "pipeline": steps,
    }


def test_panoptic_sample(panoptic: dict[str, Any]) -> None:
    dataset = build_dataset(panoptic)
    _, targets, _ = dataset[0]

    assert dataset.class_names == ("person", "dog", "sky")
    assert dataset.image_ids == [1], "an image of stuff alone is not trained on"
    assert targets.boxes.tolist() == [[30, 5, 40, 15]]
    assert targets.ignore_boxes.tolist() == [[25, 20, 50, 30]]
    assert targets.labels.tolist() == [0]
    assert targets.masks[0].sum() == 100
    assert targets.masks[0][5:15, 30:40].all()
    expected = np.full((40, 50), 255)
    expected[5:15, 30:40], expected[20:30, 25:], expected[35:] = 0, 1, 2
    np.testing.assert_array_equal(targets.semantic.numpy(), expected)


def test_panoptic_without_pngs_or_things_is_refused(panoptic: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no seg_prefix"):
        build_dataset({**panoptic, "seg_prefix": None})
    content = json.loads((tmp_path / "panoptic.json").read_text())
    for category in content["categories"]:
        category.pop("isthing")
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"no category says 'isthing'.*CocoDataset"):
        build_dataset(panoptic)


def test_panoptic_steps_need_a_panoptic_dataset(ten: Any) -> None:
    section = ten.section()
    section["pipeline"][1] = {"type": "LoadPanopticAnnotations"}
    with pytest.raises(DatasetError, match="CocoPanopticDataset"):
        build_dataset(section)[0]
