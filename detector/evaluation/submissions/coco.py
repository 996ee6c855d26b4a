"""Result files for the COCO test server: write and check.

``<prefix>.bbox.json`` and ``<prefix>.segm.json``: lists of {image_id, category_id, score, bbox |
segmentation}.

Boxes: xywh in the files, absolute pixels of the original image, not rounded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.errors import DatasetError
from detector.evaluation.annotations import AnnotationFile, ImageId, read_annotations
from detector.evaluation.files import write_json
from detector.evaluation.results import box_records, segm_records
from detector.structures import masks
from detector.structures.samples import Detections

_INSIDE = 1.0  # pixels a box may leave the image by rounding


def write(
    results: Mapping[ImageId, Detections],
    *,
    ann_file: str | Path,
    class_names: Sequence[str],
    prefix: str | Path,
) -> list[Path]:
    """Write the box file, and the mask file if the results hold masks; no ground truth is needed.

    Args:
        results: detections by image id.
        ann_file: COCO file with the images and categories of the split.
        class_names: name of each label, matched to the file's categories.
        prefix: path without ``.bbox.json``.

    Raises:
        DatasetError: an image or class is not in the file, or a number is not finite.
    """
    file = read_annotations(ann_file)
    category_ids = file.category_ids(class_names)
    boxes: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    with_masks = any(detections.masks is not None for detections in results.values())
    for image_id, detections in results.items():
        if image_id not in file.images:
            raise DatasetError(
                f"{file.path}: found results for image {image_id!r}, expected ids of this file"
            )
        where = f"results of image {image_id!r}"
        boxes += [
            {"image_id": image_id, **record} for record in box_records(detections, category_ids, where=where)
        ]
        if with_masks:
            for record in segm_records(detections, category_ids, where=where):
                text = masks.to_json(record["segmentation"])
                segments.append({"image_id": image_id, **record, "segmentation": text})
    written = [write_json(f"{prefix}.bbox.json", boxes)]
    if with_masks:
        written.append(write_json(f"{prefix}.segm.json", segments))
    return written


def check(path: str | Path, ann_file: str | Path) -> list[str]:
    """What a server would refuse in a result file; empty when nothing is wrong.

    Args:
        path: a ``.bbox.json`` or ``.segm.json`` file.
        ann_file: COCO file with the images and categories of the split.
    """
    path, file = Path(path), read_annotations(ann_file)
    try:
        records = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return [f"{path}: cannot be read as JSON ({error})"]
    if not isinstance(records, list):
        return [f"{path}: found a JSON {type(records).__name__}, expected a list of results"]
    categories = set(file.categories.values())
    found = ((i, _record_problem(record, file, categories)) for i, record in enumerate(records))
    return [f"result {i}: {problem}" for i, problem in found if problem is not None]


def _record_problem(record: Any, file: AnnotationFile, categories: set[int]) -> str | None:
    """What is wrong with one result."""
    if not isinstance(record, Mapping):
        return f"found {type(record).__name__}, expected an object"
    image_id, category_id = record.get("image_id"), record.get("category_id")
    if not isinstance(image_id, int | str) or image_id not in file.images:
        return f"image_id {image_id!r} is not in {file.path.name}"
    if category_id not in categories:
        return f"category_id {category_id!r} is not in {file.path.name}"
    if not _finite(record.get("score")):
        return f"score {record.get('score')!r} is not a finite number"
    if "bbox" not in record and "segmentation" not in record:
        return "found neither bbox nor segmentation"
    size = file.image_hw(image_id)
    wrong = _box_problem(record["bbox"], size) if "bbox" in record else None
    if wrong is None and "segmentation" in record:
        wrong = masks.problem(record["segmentation"], size)
    return wrong


def _box_problem(box: Any, image_hw: tuple[int, int]) -> str | None:
    """What is wrong with an xywh box for an image of this size."""
    if not isinstance(box, list) or len(box) != 4 or not all(_finite(v) for v in box):
        return f"bbox {box!r} is not four finite numbers"
    x, y, width, height = box
    if width < 0 or height < 0:
        return f"bbox {box} has a negative side"
    if min(x, y) < -_INSIDE or x + width > image_hw[1] + _INSIDE or y + height > image_hw[0] + _INSIDE:
        return f"bbox {box} leaves the image of {image_hw[1]} x {image_hw[0]} pixels"
    return None


def _finite(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
