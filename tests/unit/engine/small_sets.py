"""Two images with one object each in every format, a config section that reads them, and perfect results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

BOX, OTHER = [10.0, 10.0, 30.0, 30.0], [40.0, 20.0, 55.0, 50.0]  # xyxy
SIZE = (60, 80)
CLASSES = ("cat", "dog")
PIPELINE = [{"type": "LoadImageFromFile"}]


def bitmap(box: list[float]) -> np.ndarray:
    """Column-major pixels of a box."""
    pixels = np.zeros(SIZE, np.uint8, order="F")
    x1, y1, x2, y2 = (int(v) for v in box)
    pixels[y1:y2, x1:x2] = 1
    return pixels


def objects(*, crowd: bool = False) -> list[dict[str, Any]]:
    """A cat in the first image and a dog in the second, with masks."""
    records = []
    for number, (box, category) in enumerate([(BOX, 3), (OTHER, 8)], start=1):
        x1, y1, x2, y2 = box
        outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        records.append(
            {
                **{"id": number, "image_id": number, "category_id": category, "iscrowd": int(crowd)},
                **{"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)},
                "segmentation": outline,
            }
        )
    return records


def write_coco(folder: Path, *, lvis: bool = False, annotated: bool = True, name: str = "ann.json") -> Path:
    """A COCO or LVIS file of two images."""
    extra = {"neg_category_ids": [], "not_exhaustive_category_ids": []} if lvis else {}
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1], **extra} for i in (1, 2)
        ],
        "categories": [{"id": i, "name": n, "frequency": "f"} for i, n in ((3, "cat"), (8, "dog"))],
        "annotations": objects() if annotated else [],
    }
    (folder / name).write_text(json.dumps(content))
    return folder / name


def write_voc(folder: Path, *, difficult: int = 0) -> None:
    """VOC2007 with the same objects; XML coordinates start at 1."""
    root = folder / "VOC2007"
    for part in ("Annotations", "JPEGImages"):
        (root / part).mkdir(parents=True)
    (root / "test.txt").write_text("1\n2\n")
    for number, (box, name) in enumerate([(BOX, "cat"), (OTHER, "dog")], start=1):
        cv2.imwrite(str(root / "JPEGImages" / f"{number}.jpg"), np.zeros((*SIZE, 3), np.uint8))
        corners = "".join(
            f"<{key}>{int(value) + 1}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        (root / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"
            "</annotation>"
        )


def write_panoptic(folder: Path) -> None:
    """The two objects on a floor, and their instance annotations."""
    write_coco(folder, name="instances.json")
    (folder / "png").mkdir()
    annotations = []
    for number, (box, category) in enumerate([(BOX, 3), (OTHER, 8)], start=1):
        pixels = np.where(bitmap(box) > 0, 500, 9)
        cv2.imwrite(
            str(folder / "png" / f"{number}.png"), np.stack([0 * pixels, pixels // 256, pixels % 256], -1)
        )
        segments = [
            {"id": i, "category_id": c, "iscrowd": 0, "area": int((pixels == i).sum()), "bbox": [0, 0, 9, 9]}
            for i, c in ((500, category), (9, 90))
        ]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    names = ((3, "cat", 1), (8, "dog", 1), (90, "floor", 0))
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)],
        "categories": [{"id": i, "name": n, "isthing": t} for i, n, t in names],
        "annotations": annotations,
    }
    (folder / "panoptic.json").write_text(json.dumps(content))


def data_of(kind: str, folder: Path) -> dict[str, Any]:
    """The data set section of a config."""
    base = {"pipeline": PIPELINE, "img_prefix": str(folder)}
    if kind == "voc":
        prefix = str(folder / "VOC2007")
        own = {
            "type": "VOCDataset",
            "ann_file": f"{prefix}/test.txt",
            "img_prefix": prefix,
            "classes": CLASSES,
        }
        return {**base, **own}
    if kind == "panoptic":
        own = {"type": "CocoPanopticDataset", "ann_file": str(folder / "panoptic.json")}
        return {
            **base,
            **own,
            "seg_prefix": str(folder / "png"),
            "ins_ann_file": str(folder / "instances.json"),
        }
    types = {"coco": "CocoDataset", "lvis0.5": "LVISV05Dataset", "lvis": "LVISDataset"}
    return {**base, "type": types[kind], "ann_file": str(folder / "ann.json"), "classes": CLASSES}


def perfect(kind: str) -> list[Any]:
    """What the reference's test tool would write for a perfect model."""
    found = []
    for label, box in enumerate((BOX, OTHER)):
        boxes = [np.zeros((0, 5), np.float32) for _ in CLASSES]
        rles: list[list[Any]] = [[], []]
        boxes[label] = np.array([[*box, 0.9]], np.float32)
        rles[label] = [coco_mask.encode(bitmap(box))]
        one: Any = boxes if kind == "voc" else (boxes, rles)
        if kind == "panoptic":
            one = {"pan_results": np.where(bitmap(box) > 0, 1000 + label, 2), "ins_results": one}
        found.append(one)
    return found


def write(kind: str, folder: Path) -> None:
    """The annotation files of a kind."""
    makers = {"voc": write_voc, "panoptic": write_panoptic}
    makers.get(kind, lambda path: write_coco(path, lvis=kind.startswith("lvis")))(folder)
