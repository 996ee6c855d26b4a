"""Average precision of boxes per class, MMDetection's ``eval_map``: objects may be ignored or of a size.

Shapes: N images, K classes, n detections and G objects of one class in one image.
Boxes: xyxy, absolute pixels of the original image. Legacy coordinates (+1 on width and height) are VOC's own.
Source: checked against MMDetection's ``eval_map`` (core/evaluation/mean_ap.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError, DatasetError
from detector.evaluation.overlaps import areas, overlaps
from detector.evaluation.report import PrCurve

MODES = ("area", "11points")

Floats = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True)
class BoxTruth:
    """The objects of one image.

    Attributes:
        boxes: (G, 4).
        labels: (G,) int in [0, K).
        ignored: (G,) bool, difficult objects: neither have to be found nor count as false when they are.
    """

    boxes: NDArray[Any]
    labels: NDArray[Any]
    ignored: NDArray[np.bool_]


@dataclass(frozen=True)
class ClassPrecision:
    """One class at one overlap and one range of sizes.

    Attributes:
        ap: average precision in [0, 1]; 0 without detections or without objects.
        recall: share of the objects found by all detections together.
        objects: objects that count.
        detections: detections of the class in all images.
        recalls: (detections,) from the best score on.
        precisions: (detections,) at the same detections.
    """

    ap: float
    recall: float
    objects: int
    detections: int
    recalls: Floats = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    precisions: Floats = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)


def class_precisions(
    detections: Sequence[Sequence[NDArray[Any]]],
    truth: Sequence[BoxTruth],
    *,
    iou_thr: float = 0.5,
    mode: str = "area",
    legacy: bool = False,
    scale_range: Range | None = None,
) -> list[ClassPrecision]:
    """Average precision of every class.

    Args:
        detections: per image and class an (n, 5) array: box and score.
        truth: the objects of each image.
        iou_thr: from which overlap on a detection is right.
        mode: 'area' under the precision-recall curve, or the mean at '11points' (VOC 2007).
        legacy: whether a box is one pixel wider and higher than its corners say.
        scale_range: side lengths in pixels whose squares bound the area, upper one excluded. Objects of
            other sizes are ignored, and so are detections of other sizes that find nothing.

    Raises:
        ConfigError: an unknown mode.
        DatasetError: the numbers of images differ.
    """
    if mode not in MODES:
        raise ConfigError(f"mode: found {mode!r}, expected one of {list(MODES)}")
    if len(detections) != len(truth):
        raise DatasetError(f"found results of {len(detections)} images, expected {len(truth)}")
    classes = len(detections[0]) if len(detections) else 0
    bounds = None if scale_range is None else (scale_range[0] ** 2, scale_range[1] ** 2)
    columns = [[one[label] for one in detections] for label in range(classes)]
    return [
        _one_class(column, truth, label, iou_thr, mode=mode, legacy=legacy, bounds=bounds)
        for label, column in enumerate(columns)
    ]


def mean_ap(per_class: Sequence[ClassPrecision]) -> float:
    """Mean over the classes that have objects; 0 if none has."""
    known = [one.ap for one in per_class if one.objects]
    return float(np.mean(known)) if known else 0.0


def mean_curve(per_class: Sequence[ClassPrecision]) -> PrCurve:
    """Precision at COCO's 101 recall points, averaged over the classes that have objects.

    At each point the best precision of that recall or a higher one counts; 0 beyond the recall reached.
    """
    points = np.linspace(0.0, 1.0, 101)
    known = [one for one in per_class if one.objects]
    total = np.zeros(len(points))
    for one in known:
        reached = np.searchsorted(one.recalls, points - 1e-9)
        best = np.append(np.maximum.accumulate(one.precisions[::-1])[::-1], 0.0)
        total += best[reached]
    return PrCurve(recall=points, precision=total / max(1, len(known)))


def average_precision(recalls: Floats, precisions: Floats, *, mode: str = "area") -> float:
    """Average precision of one curve.

    Args:
        recalls: (n,) ascending, in [0, 1]; n may be 0.
        precisions: (n,) at the same detections.
        mode: as ``class_precisions``.
    """
    if mode == "11points":
        points = np.arange(0, 1 + 1e-3, 0.1)
        return float(sum(precisions[recalls >= point].max(initial=0.0) for point in points) / 11)
    steps = np.concatenate([[0.0], recalls, [1.0]])
    heights = np.concatenate([[0.0], precisions, [0.0]])
    envelope = np.maximum.accumulate(heights[::-1])[::-1]
    return float(np.sum(np.diff(steps) * envelope[1:]))


def _one_class(
    detections: Sequence[NDArray[Any]],
    truth: Sequence[BoxTruth],
    label: int,
    iou_thr: float,
    *,
    mode: str,
    legacy: bool,
    bounds: Range | None,
) -> ClassPrecision:
    """Average precision of one class over all images; ``bounds`` are areas."""
    right, wrong, total = [], [], 0
    for found, objects in zip(detections, truth, strict=True):
        chosen = np.flatnonzero(objects.labels == label)
        # objects that count come first, as the reference stacks them: ties of overlap go to the first
        chosen = chosen[np.argsort(objects.ignored[chosen], kind="stable")]
        boxes, ignored = objects.boxes[chosen].reshape(-1, 4), objects.ignored[chosen].copy()
        if bounds is not None:
            ignored |= ~_within(boxes, bounds, legacy=legacy)
        total += int((~ignored).sum())
        one_right, one_wrong = _match(found, boxes, ignored, iou_thr, legacy=legacy, bounds=bounds)
        right.append(one_right)
        wrong.append(one_wrong)
    scores = np.concatenate([found[:, 4] for found in detections])
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(np.concatenate(right)[order])
    false = np.cumsum(np.concatenate(wrong)[order])
    tiny = float(np.finfo(np.float32).eps)
    recalls = hits / max(total, tiny)
    precisions = hits / np.maximum(hits + false, tiny)
    ap = average_precision(recalls, precisions, mode=mode) if total else 0.0
    return ClassPrecision(
        ap=ap,
        recall=float(recalls[-1]) if len(hits) and total else 0.0,
        objects=total,
        detections=len(hits),
        recalls=recalls,
        precisions=precisions,
    )


def _match(
    found: NDArray[Any],
    boxes: NDArray[Any],
    ignored: NDArray[np.bool_],
    iou_thr: float,
    *,
    legacy: bool,
    bounds: Range | None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) right and (n,) wrong detections of one image; neither where an ignored object is hit.

    From the best score on, each goes to the object it overlaps most; a second one there is wrong.
    """
    right, wrong = np.zeros(len(found), bool), np.zeros(len(found), bool)
    counted = np.ones(len(found), bool) if bounds is None else _within(found, bounds, legacy=legacy)
    if not len(boxes):
        return right, counted
    shares = overlaps(found, boxes, legacy=legacy)
    best = shares.argmax(axis=1)
    covered = np.zeros(len(boxes), bool)
    for i in np.argsort(-found[:, 4], kind="stable"):
        target = best[i]
        if shares[i, target] < iou_thr:
            wrong[i] = counted[i]
        elif not ignored[target]:
            right[i], wrong[i] = not covered[target], covered[target]
            covered[target] = True
    return right, wrong


def _within(boxes: NDArray[Any], bounds: Range, *, legacy: bool) -> NDArray[np.bool_]:
    """Which boxes' areas lie in [low, high)."""
    found = areas(boxes, legacy=legacy)
    return np.asarray((found >= bounds[0]) & (found < bounds[1]))
