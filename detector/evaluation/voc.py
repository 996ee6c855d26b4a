"""Pascal VOC's metrics: average precision per class and their mean, at one or more overlaps.

Shapes: K classes, n detections of one class in one image.
Boxes: xyxy, absolute pixels of the original image. Legacy coordinates (+1 on width and height) are VOC's own.
Source: Everingham et al., The Pascal VOC challenge (2010); checked against MMDetection's
``VOCDataset.evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError, DatasetError
from detector.evaluation.coco import counts_of
from detector.evaluation.precision import (
    BoxTruth,
    ClassPrecision,
    Range,
    class_precisions,
    mean_ap,
    mean_curve,
)
from detector.evaluation.recall import proposal_recalls
from detector.evaluation.report import CURVE_IOU, ClassResult, Measured

METRICS = ("mAP", "recall")


def evaluate_voc(
    detections: Sequence[Sequence[NDArray[Any]]],
    truth: Sequence[BoxTruth],
    class_names: Sequence[str],
    **options: Any,
) -> dict[str, float | str]:
    """The metrics of ``measure_voc``; arguments and errors as there."""
    return measure_voc(detections, truth, class_names, **options).metrics


def measure_voc(
    detections: Sequence[Sequence[NDArray[Any]]],
    truth: Sequence[BoxTruth],
    class_names: Sequence[str],
    *,
    metrics: Sequence[str] = ("mAP",),
    year: int | None = None,
    iou_thr: float | Sequence[float] = 0.5,
    scale_ranges: Sequence[Range] | None = None,
    proposal_nums: Sequence[int] = (100, 300, 1000),
    classwise: bool = False,
) -> Measured:
    """MMDetection's metric keys for VOC data, in legacy coordinates.

    Args:
        detections: per image and class an (n, 5) array: box and score.
        truth: the objects of each image.
        class_names: K names.
        metrics: exactly one of METRICS.
        year: 2007 takes the mean at 11 points; any other the area under the curve.
        iou_thr: one overlap or several.
        scale_ranges: further mAP of the objects between two side lengths in pixels, as
            ``mAP_<low>_<high>``; MMDetection accepts the argument and does nothing.
        proposal_nums: for 'recall': how many boxes of an image count.
        classwise: also ``AP<iou>/<class>`` with recall and numbers of objects and detections.

    Returns:
        'mAP' (mean over the overlaps) and ``AP<iou in %>`` with 3 decimals; for 'recall'
        ``recall@<n>@<iou>``, and ``AR@<n>`` when there are several overlaps.

    Raises:
        ConfigError: not exactly one known metric, or an overlap outside (0, 1].
        DatasetError: there is no object to find.
    """
    thresholds = _thresholds(iou_thr)
    _check(truth, metrics, scale_ranges or ())
    if metrics[0] == "recall":
        return Measured(dict(_recalls(detections, truth, thresholds, counts_of(proposal_nums))))
    mode = "11points" if year == 2007 else "area"

    def tables(scale_range: Range | None = None) -> list[list[ClassPrecision]]:
        more: Any = {"mode": mode, "legacy": True, "scale_range": scale_range}
        return [class_precisions(detections, truth, iou_thr=value, **more) for value in thresholds]

    every = tables()
    means = [mean_ap(table) for table in every]
    values: dict[str, float | str] = {"mAP": float(np.mean(means))}
    values.update({f"AP{_percent(t)}": round(m, 3) for t, m in zip(thresholds, means, strict=True)})
    for low, high in scale_ranges or ():
        values[f"mAP_{low:g}_{high:g}"] = float(np.mean([mean_ap(table) for table in tables((low, high))]))
    for threshold, table in zip(thresholds, every, strict=True) if classwise else ():
        values.update(_by_class(table, class_names, _percent(threshold)))
    if CURVE_IOU not in thresholds:
        return Measured(values)
    table = every[thresholds.index(CURVE_IOU)]
    named = zip(class_names, table, strict=True)
    classes = {name: ClassResult(one.ap, mean_curve([one])) for name, one in named if one.objects}
    return Measured(values, {"bbox": mean_curve(table)}, {"bbox": classes})


def _check(truth: Sequence[BoxTruth], metrics: Sequence[str], scale_ranges: Sequence[Any]) -> None:
    """Refuse what has no number."""
    if len(metrics) != 1 or metrics[0] not in METRICS:
        raise ConfigError(f"metric: found {list(metrics)}, expected exactly one of {list(METRICS)}")
    if not all(isinstance(one, list | tuple) and len(one) == 2 for one in scale_ranges):
        raise ConfigError(f"scale_ranges: found {scale_ranges}, expected pairs of side lengths, as [(0,32)]")
    if all(one.ignored.all() for one in truth):
        raise DatasetError(
            f"found no object that counts in {len(truth)} images, expected ground truth to compare with; use "
            "--format-only or --out for a split without annotations"
        )


def _thresholds(iou_thr: float | Sequence[float]) -> list[float]:
    """One or several overlaps as a list."""
    found = [iou_thr] if isinstance(iou_thr, int | float) else [float(value) for value in iou_thr]
    if not found or not all(0 < value <= 1 for value in found):
        raise ConfigError(f"iou_thr: found {iou_thr}, expected numbers above 0 and up to 1")
    return found


def _recalls(
    detections: Sequence[Sequence[NDArray[Any]]],
    truth: Sequence[BoxTruth],
    thresholds: Sequence[float],
    proposal_nums: Sequence[int],
) -> dict[str, float]:
    """Share of the objects that the best boxes of their image cover, whatever their class."""
    objects = [one.boxes[~one.ignored].reshape(-1, 4) for one in truth]
    boxes = [np.concatenate([np.zeros((0, 5), np.float32), *one]) for one in detections]
    table = proposal_recalls(objects, boxes, proposal_nums=proposal_nums, iou_thrs=thresholds, legacy=True)
    values = {
        f"recall@{number}@{threshold}": float(table[row, column])
        for row, number in enumerate(proposal_nums)
        for column, threshold in enumerate(thresholds)
    }
    if len(thresholds) > 1:
        values.update({f"AR@{n}": float(table[row].mean()) for row, n in enumerate(proposal_nums)})
    return values


def _by_class(table: Sequence[ClassPrecision], class_names: Sequence[str], name: str) -> dict[str, float]:
    """AP, recall and counts of each class that has objects or detections."""
    values: dict[str, float] = {}
    for class_name, one in zip(class_names, table, strict=True):
        if one.objects or one.detections:
            values[f"AP{name}/{class_name}"] = round(one.ap, 3)
            values[f"recall{name}/{class_name}"] = round(one.recall, 3)
            values[f"objects{name}/{class_name}"] = one.objects
            values[f"detections{name}/{class_name}"] = one.detections
    return values


def _percent(threshold: float) -> str:
    """An overlap in per cent for a key: 0.5 -> '50', 0.05 -> '05'."""
    return f"{round(threshold * 100):02d}"
