"""A small COCO-format data set on disk, and the pipelines that read it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

NORM = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}


def rectangle(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@dataclass
class CocoFolder:
    """An image folder and the annotation file being written for it."""

    root: Path
    content: dict[str, Any] = field(
        default_factory=lambda: {"images": [], "annotations": [], "categories": []}
    )

    def category(self, key: int, name: str) -> None:
        self.content["categories"].append({"id": key, "name": name})

    def image(self, key: int | str, width: int, height: int, name: str | None = None) -> str:
        name = name or f"{key}.png"
        pixels = np.random.default_rng(len(self.content["images"])).integers(
            0, 256, (height, width, 3), np.uint8
        )
        path = self.root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)
        self.content["images"].append({"id": key, "file_name": name, "width": width, "height": height})
        return name

    def box(self, image: int | str, category: int, xywh: list[float], **more: Any) -> None:
        entry = {
            "id": len(self.content["annotations"]) + 1,
            "image_id": image,
            "category_id": category,
            "bbox": xywh,
            "area": xywh[2] * xywh[3],
            "iscrowd": 0,
            "segmentation": rectangle(*xywh),
        }
        self.content["annotations"].append({**entry, **more})

    def write(self) -> Path:
        path = self.root / "annotations" / "train.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.content))
        return path

    def section(self, *, masks: bool = False, train: bool = True, **more: Any) -> dict[str, Any]:
        self.write()
        keys = ["img", "gt_bboxes", "gt_labels", *(["gt_masks"] if masks else [])]
        steps = [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks},
            {"type": "Resize", "img_scale": [(96, 64), (128, 80)], "keep_ratio": True},
            {"type": "RandomFlip", "flip_ratio": 0.5},
            {"type": "Normalize", **NORM},
            {"type": "Pad", "size_divisor": 32},
            {"type": "DefaultFormatBundle"},
            {"type": "Collect", "keys": keys},
        ]
        inner = [
            {"type": "Resize", "keep_ratio": True},
            {"type": "RandomFlip"},
            {"type": "Normalize", **NORM},
            {"type": "Pad", "size_divisor": 32},
            {"type": "ImageToTensor", "keys": ["img"]},
            {"type": "Collect", "keys": ["img"]},
        ]
        tested = [
            {"type": "LoadImageFromFile"},
            {"type": "MultiScaleFlipAug", "img_scale": (128, 80), "flip": True, "transforms": inner},
        ]
        base = {
            "type": "CocoDataset",
            "classes": tuple(c["name"] for c in self.content["categories"]),
            "data_root": str(self.root),
            "ann_file": "annotations/train.json",
            "img_prefix": "images/",
            "pipeline": steps if train else tested,
        }
        return {**base, **more}


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    """An empty folder with the categories cat (7) and dog (3), in this order."""
    folder = CocoFolder(tmp_path)
    folder.category(7, "cat")
    folder.category(3, "dog")
    return folder


@pytest.fixture
def ten(coco: CocoFolder) -> CocoFolder:
    """Seven wide and three high images with two objects each."""
    for i in range(10):
        width, height = (64, 48) if i < 7 else (48, 64)
        coco.image(i, width, height)
        coco.box(i, 7, [4.0 + i, 5.0, 20.0, 10.0])
        coco.box(i, 3, [10.0, 20.0, 8.0, 12.0])
    return coco


@pytest.fixture
def norm() -> dict[str, Any]:
    return dict(NORM)
