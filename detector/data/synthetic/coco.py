"""The scenes as COCO 2017 lays its files out.

Boxes: xywh in pixels, as COCO writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from detector.data.parallel import run_ordered
from detector.data.synthetic.recipe import SPLITS, Recipe
from detector.data.synthetic.scene import Instance, draw_scene

# Our class -> COCO's (id, name). COCO counts riders as persons; its ids leave gaps, as here.
COCO_CATEGORIES = {
    "person": (1, "person"), "rider": (1, "person"), "bicycle": (2, "bicycle"), "car": (3, "car"),
    "motorcycle": (4, "motorcycle"), "bus": (6, "bus"), "train": (7, "train"), "truck": (8, "truck"),
}  # fmt: skip


def write_coco(
    root: Path, *, recipe: Recipe, processes: int = 1, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write {train,val,test}2017/*.jpg and annotations/*.json below ``root``.

    Files: instances_train2017, instances_val2017 and image_info_test2017, which lists images only. Group
    regions are crowds with uncompressed run lengths, all else has polygons, as in COCO.

    Args:
        root: folder to fill, made when missing.
        recipe: what to draw.
        processes: worker processes; the bytes do not depend on it.
        progress: called with (images written, images in all).
    """
    jobs = [(split, index) for split in SPLITS for index in range(recipe.count(split))]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split in {split for split, _ in jobs}:
        (root / f"{split}2017").mkdir(exist_ok=True)
    numbered = [(serial, *job) for serial, job in enumerate(jobs, start=1)]
    done = list(
        run_ordered(partial(_write_image, root, recipe), numbered, processes=processes, progress=progress)
    )
    categories = [
        {"supercategory": "none", "id": i, "name": name} for i, name in sorted(set(COCO_CATEGORIES.values()))
    ]
    for split in {split: None for split, _ in jobs}:
        members = [
            record for (_, its_split, _), record in zip(numbered, done, strict=True) if its_split == split
        ]
        document: dict[str, Any] = {"info": {"description": "synthetic street scenes"}, "licenses": []}
        document |= {"images": [image for image, _ in members], "categories": categories}
        if split != "test":
            found = [dict(a) for _, annotations in members for a in annotations]
            document["annotations"] = [{**a, "id": i} for i, a in enumerate(found, start=1)]
        stem = "image_info_test2017" if split == "test" else f"instances_{split}2017"
        (root / "annotations" / f"{stem}.json").write_text(json.dumps(document) + "\n", encoding="utf-8")


def _write_image(
    root: Path, recipe: Recipe, job: tuple[int, str, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    serial, split, index = job
    scene = draw_scene(recipe, split, index)
    name = f"{serial:012d}.jpg"
    _, data = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    (root / f"{split}2017" / name).write_bytes(data.tobytes())
    image = {"id": serial, "file_name": name, "height": recipe.height, "width": recipe.width}
    if split == "test":
        return image, []
    return image, [{"image_id": serial, **_annotation(item, scene.instances)} for item in scene.objects]


def _annotation(item: Instance, instances: NDArray[np.uint16]) -> dict[str, Any]:
    mask = instances == item.instance_id
    height, width = mask.shape
    segmentation: Any = run_lengths(mask) if item.crowd else outlines(mask)
    rle = coco_mask.frPyObjects(segmentation, height, width)
    rle = coco_mask.merge(rle) if isinstance(rle, list) else rle
    return {
        "category_id": COCO_CATEGORIES[item.name][0],
        "segmentation": segmentation,
        "area": int(coco_mask.area(rle)),
        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
        "iscrowd": int(item.crowd),
    }


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths of a (H, W) mask: column by column, zeros first."""
    flat = np.concatenate([[0], mask.astype(np.int8).ravel(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat))
    return {"counts": np.diff(edges, prepend=0).tolist(), "size": list(mask.shape)}


def outlines(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Polygons [x, y, ...] along the outer pixel edges of a (H, W) mask, one per part; holes are filled."""
    doubled = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    found, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    # In the doubled picture pixel x covers 2x and 2x + 1: an even edge stands for x, an odd one for x + 1.
    return [
        ((c[:, 0, :] + (c[:, 0, :] & 1)) // 2).astype(float).ravel().tolist() for c in found if len(c) >= 3
    ]
