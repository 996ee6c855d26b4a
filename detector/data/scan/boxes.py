"""Checks of annotations: boxes, masks, categories, ids.

Shapes: n images, m annotations.
Boxes: xywh float64 pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from numpy.typing import NDArray

from detector.data.scan.contents import Contents
from detector.structures.masks import segmentation_problem

#: a box may reach so far over the border by rounding
BORDER_PX = 0.5
#: a box's side may lie so far from its mask's: both are often rounded outwards
HULL_PX = 2.0


def check_annotations(contents: Contents) -> None:
    """Add the findings of all annotations of a data set to it."""
    _check_ids(contents)
    _check_categories(contents)
    good = _check_extent(contents)
    _check_border(contents, good)
    _check_masks(contents, good)
    _check_copies(contents, good)
    _check_empty(contents)


def _find(contents: Contents, kind: str, index: int, detail: str) -> None:
    """A finding about one annotation."""
    row = int(contents.rows[index])
    contents.find(kind, contents.names[row], detail, annotation=contents.annotation_ids[index], row=row)


def _check_ids(contents: Contents) -> None:
    """Annotation ids: present, unique and not 0."""
    first: dict[Any, int] = {}
    for index, key in enumerate(contents.annotation_ids):
        if not isinstance(key, int | str):
            _find(contents, "malformed-entry", index, f"found annotation id {key!r}; expected a number")
        elif key in first:
            other = contents.names[int(contents.rows[first[key]])]
            _find(contents, "repeated-id", index, f"annotation id {key!r} is used before, in {other}")
        else:
            first[key] = index
    if 0 in first:
        _find(contents, "id-zero", first[0], "annotation id 0")


def _check_categories(contents: Contents) -> None:
    """Every category is listed, and every listed one has objects."""
    known = np.array(sorted(contents.categories), np.int64)
    for index in np.flatnonzero(~np.isin(contents.category_ids, known)):
        _find(
            contents,
            "unknown-category",
            int(index),
            f"category_id {contents.category_ids[index]}; the file lists "
            f"{', '.join(map(str, known[:12]))}{', ...' if len(known) > 12 else ''}",
        )
    if not len(contents.rows):
        return
    used = set(contents.category_ids.tolist())
    for key, name in contents.categories.items():
        if key not in used:
            contents.find("class-without-objects", name, f"category {key} has no annotation")


def _check_extent(contents: Contents) -> NDArray[np.bool_]:
    """Boxes with extent; returns (m,) which are sound."""
    boxes = contents.boxes
    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore"):
        flat = finite & ((boxes[:, 2] <= 0) | (boxes[:, 3] <= 0))
        tiny = finite & ~flat & ((boxes[:, 2] < 1) | (boxes[:, 3] < 1))
    for index in np.flatnonzero(~finite):
        if int(index) not in contents.no_boxes:  # those were told of when they were read
            text = f"bbox {_numbers(boxes[index])}; expected finite numbers"
            _find(contents, "degenerate-box", int(index), text)
    for index in np.flatnonzero(flat):
        text = f"bbox {_numbers(boxes[index])}; expected width and height above 0"
        _find(contents, "degenerate-box", int(index), text)
    for index in np.flatnonzero(tiny):
        _find(contents, "tiny-box", int(index), f"bbox {_numbers(boxes[index])}")
    return finite & ~flat


def _check_border(contents: Contents, good: NDArray[np.bool_]) -> None:
    """Boxes inside their image."""
    if not len(contents.rows):
        return
    height, width = contents.sizes[contents.rows].T
    x, y, w, h = contents.boxes.T
    with np.errstate(invalid="ignore"):
        overlap_w = np.minimum(x + w, width) - np.maximum(x, 0)
        overlap_h = np.minimum(y + h, height) - np.maximum(y, 0)
        outside = good & ((overlap_w <= 0) | (overlap_h <= 0))
        over = np.maximum.reduce([-x, -y, x + w - width, y + h - height])
        across = good & ~outside & (over > BORDER_PX)
    for index in np.flatnonzero(outside | across):
        i = int(index)
        size = f"the image is {width[i]:.0f} x {height[i]:.0f}"
        if outside[i]:
            _find(contents, "box-outside-image", i, f"bbox {_numbers(contents.boxes[i])}; {size}")
        else:
            text = f"bbox {_numbers(contents.boxes[i])} by {over[i]:.4g} pixels; {size}"
            _find(contents, "box-over-border", i, text)


def _check_masks(contents: Contents, good: NDArray[np.bool_]) -> None:
    """Masks that can be drawn, and boxes that enclose them."""
    for i, segmentation in enumerate(contents.segmentations):
        if segmentation is None or segmentation == []:
            continue
        hw = contents.sizes[int(contents.rows[i])]
        hull, wrong = _hull(segmentation, hw)
        if wrong is not None:
            _find(contents, "bad-mask", i, wrong)
        elif hull is not None and good[i] and np.isfinite(hw).all():
            apart = _distance(contents.boxes[i], hull, hw)
            if apart > HULL_PX:
                text = (
                    f"bbox {_numbers(contents.boxes[i])}, its mask's {_numbers(hull)}: {apart:.4g} px apart"
                )
                _find(contents, "box-not-of-mask", i, text)


def _hull(segmentation: Any, hw: NDArray[np.float64]) -> tuple[Sequence[float] | None, str | None]:
    """(xywh around a mask or None when that is unknown, what is wrong with the mask or None)."""
    if not isinstance(segmentation, list):
        if not np.isfinite(hw).all():
            return None, None
        wrong = segmentation_problem(segmentation, (int(hw[0]), int(hw[1])))
        if wrong is not None:
            return None, wrong
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, int(hw[0]), int(hw[1]))
        return tuple(float(v) for v in coco_mask.toBbox(segmentation)), None
    usable = [part for part in segmentation if _is_polygon(part)]
    if not usable:
        return None, "no polygon of at least three x, y pairs"
    left, top = min(min(part[0::2]) for part in usable), min(min(part[1::2]) for part in usable)
    right, bottom = max(max(part[0::2]) for part in usable), max(max(part[1::2]) for part in usable)
    hull = (left, top, right - left, bottom - top)
    return (hull, None) if np.isfinite(hull).all() else (None, "a polygon with NaN or infinite numbers")


def _is_polygon(part: Any) -> bool:
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(isinstance(v, int | float) for v in part)
    )


def _distance(box: NDArray[np.float64], hull: Sequence[float], hw: NDArray[np.float64]) -> float:
    """Largest distance between the sides of two xywh boxes, both cut to the image."""
    limit = np.array([hw[1], hw[0], hw[1], hw[0]])
    corners = [np.clip([b[0], b[1], b[0] + b[2], b[1] + b[3]], 0, limit) for b in (box, hull)]
    return float(np.abs(corners[0] - corners[1]).max())


def _check_copies(contents: Contents, good: NDArray[np.bool_]) -> None:
    """The same box of the same class in the same image, to a hundredth of a pixel."""
    rows = np.flatnonzero(good)
    if not len(rows):
        return
    boxes = np.round(contents.boxes[rows] * 100).astype(np.int64)
    keys = np.column_stack([contents.rows[rows], contents.category_ids[rows], boxes])
    order = np.lexsort(keys.T[::-1])
    same = (keys[order][1:] == keys[order][:-1]).all(axis=1)
    first = order[0]
    for position, repeated in enumerate(same, start=1):
        if not repeated:
            first = order[position]
            continue
        index, other = int(rows[order[position]]), contents.annotation_ids[int(rows[first])]
        name = contents.categories.get(int(contents.category_ids[index]), "?")
        text = f"{name} {_numbers(contents.boxes[index])} is annotation {other} again"
        _find(contents, "duplicate-annotation", index, text)


def _check_empty(contents: Contents) -> None:
    """Images without annotations, unless the file has none at all (a test split)."""
    if not len(contents.rows):
        return
    counts = np.bincount(contents.rows, minlength=len(contents.names))
    for row in np.flatnonzero(counts == 0):
        contents.find("unannotated-image", contents.names[int(row)], "no annotation", row=int(row))


def _numbers(values: Any) -> str:
    """Numbers of a box, short."""
    return "[" + ", ".join(f"{float(v):.6g}" for v in values) + "]"
