"""What a COCO evaluation found: the accumulated tables and the numbers read from them.

Shapes: T IoU thresholds, R = 101 recall points, K classes, A = 4 areas (all, small, medium, large), M = 3
caps on detections per image.
Source: COCO API ``COCOeval.summarize``; keys and rounding as MMDetection's ``CocoDataset.evaluate``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError

AREAS = ("all", "small", "medium", "large")
ITEMS = (
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000"),
)

#: overlap from which on a detection is right, in the curves that are kept
CURVE_IOU = 0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PrCurve:
    """Precision at R recall points, averaged over the classes with ground truth; both arrays are (R,)."""

    recall: Floats
    precision: Floats


@dataclass(frozen=True)
class ClassResult:
    """One class: its average precision, and its precision over recall at IoU CURVE_IOU where measured."""

    ap: float
    curve: PrCurve | None = None

    @property
    def ap_50(self) -> float | None:
        """Average precision at CURVE_IOU alone, as COCO reads it: the mean of the curve's points."""
        return None if self.curve is None else float(self.curve.precision.mean())


@dataclass(frozen=True)
class Measured:
    """What an evaluation gives.

    Attributes:
        metrics: values by name.
        curves: precision over recall at IoU CURVE_IOU by kind of overlap ('bbox', 'segm'), where it was
            measured.
        classes: kind of overlap -> class with ground truth -> what was measured of it.
    """

    metrics: dict[str, float | str]
    curves: dict[str, PrCurve] = field(default_factory=dict)
    classes: dict[str, dict[str, ClassResult]] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricTable:
    """Everything accumulated for one kind of overlap.

    Attributes:
        metric: 'bbox', 'segm' or 'proposal'.
        class_names: K names, in the order of axis K.
        iou_thrs: (T,) thresholds.
        max_dets: M caps, ascending.
        precision: (T, R, K, A, M); -1 where there is no ground truth.
        recall: (T, K, A, M); -1 where there is no ground truth.
    """

    metric: str
    class_names: tuple[str, ...]
    iou_thrs: Floats
    max_dets: tuple[int, ...]
    precision: Floats
    recall: Floats

    def average_precision(
        self, *, iou: float | None = None, area: str = "all", max_dets: int | None = None
    ) -> float:
        """Mean precision over classes, recall points and thresholds in [0, 1]; -1 without ground truth."""
        table = self.precision[self._thresholds(iou), :, :, AREAS.index(area), self._cap(max_dets)]
        return _mean_known(table)

    def average_recall(
        self, *, iou: float | None = None, area: str = "all", max_dets: int | None = None
    ) -> float:
        """Mean of the highest recall over classes and thresholds in [0, 1]; -1 without ground truth."""
        return _mean_known(self.recall[self._thresholds(iou), :, AREAS.index(area), self._cap(max_dets)])

    def stats(self) -> Floats:
        """The 12 COCO numbers: AP, AP50, AP75, APs, APm, APl, AR at the three caps, ARs, ARm, ARl.

        As COCO does, AP is read at 100 detections (at the largest cap if 100 is none of them), the rest at
        the largest.
        """
        first = 100 if 100 in self.max_dets else None
        sizes = AREAS[1:]
        return np.array(
            [
                self.average_precision(max_dets=first),
                self.average_precision(iou=0.5),
                self.average_precision(iou=0.75),
                *(self.average_precision(area=area) for area in sizes),
                *(self.average_recall(max_dets=cap) for cap in self.max_dets),
                *(self.average_recall(area=area) for area in sizes),
            ]
        )

    def by_class(self) -> dict[str, float]:
        """AP of each class over all thresholds, at the largest cap; NaN for a class without ground truth."""
        columns = (self.precision[:, :, k, 0, -1] for k in range(len(self.class_names)))
        found = ((column[column > -1]) for column in columns)
        values = (float(column.mean()) if column.size else float("nan") for column in found)
        return dict(zip(self.class_names, values, strict=True))

    def pr_curve(self, *, iou: float = 0.5) -> PrCurve:
        """Precision over recall at one threshold, all areas, largest cap; 0 beyond the recall reached."""
        table = self.precision[self._thresholds(iou), :, :, 0, -1]
        recall = np.linspace(0.0, 1.0, self.precision.shape[1])
        if not len(table):
            raise ConfigError(
                f"pr_curve: found iou {iou}, expected one of the evaluated {self.iou_thrs.tolist()}"
            )
        known = table[0][:, table[0].max(axis=0) > -1]
        precision = known.mean(axis=1) if known.size else np.zeros_like(recall)
        return PrCurve(recall=recall, precision=precision)

    def classes(self) -> dict[str, ClassResult]:
        """Each class with ground truth; the curve where CURVE_IOU was evaluated."""
        at = self._thresholds(CURVE_IOU)
        recall = np.linspace(0.0, 1.0, self.precision.shape[1])
        found = {}
        for k, (name, ap) in enumerate(self.by_class().items()):
            if ap == ap:
                points = np.maximum(self.precision[at[0], :, k, 0, -1], 0.0) if len(at) else None
                found[name] = ClassResult(ap, None if points is None else PrCurve(recall, points))
        return found

    def _thresholds(self, iou: float | None) -> NDArray[np.intp]:
        """Positions of a threshold on axis T; all of them for None, none if it was not evaluated."""
        if iou is None:
            return np.arange(len(self.iou_thrs))
        return np.flatnonzero(np.isclose(self.iou_thrs, iou, rtol=0, atol=1e-9))

    def _cap(self, max_dets: int | None) -> int:
        """Position of a cap on axis M; the largest for None."""
        return -1 if max_dets is None else self.max_dets.index(max_dets)


@dataclass(frozen=True)
class CocoReport:
    """The tables of every metric that was asked for, in that order."""

    tables: dict[str, MetricTable]

    def metrics(
        self, *, metric_items: Sequence[str] | None = None, classwise: bool = False
    ) -> dict[str, float | str]:
        """MMDetection's keys and rounding (4 decimals), e.g. ``bbox_mAP_50``.

        Args:
            metric_items: names from ITEMS; default the six APs (for proposals the six ARs).
            classwise: also ``<metric>_AP/<class>`` (classes without ground truth are left out).
        """
        metric_items = [metric_items] if isinstance(metric_items, str) else metric_items
        unknown = [item for item in metric_items or () if item not in ITEMS]
        if unknown:
            raise ConfigError(f"metric_items: found {unknown}, expected names from {list(ITEMS)}")
        values: dict[str, float | str] = {}
        for metric, table in self.tables.items():
            stats = dict(zip(ITEMS, table.stats().round(4).tolist(), strict=True))
            if metric == "proposal":
                values.update({item: stats[item] for item in metric_items or ITEMS[6:]})
                continue
            values.update({f"{metric}_{item}": stats[item] for item in metric_items or ITEMS[:6]})
            values[f"{metric}_mAP_copypaste"] = " ".join(f"{stats[item]:.4f}" for item in ITEMS[:6])
            if classwise:
                known = {name: ap for name, ap in table.by_class().items() if ap == ap}
                values.update({f"{metric}_AP/{name}": round(ap, 4) for name, ap in known.items()})
        return values


def curves_of(tables: Mapping[str, MetricTable]) -> dict[str, PrCurve]:
    """The curve of every table of a labelled overlap that was evaluated at CURVE_IOU."""
    return {
        metric: table.pr_curve(iou=CURVE_IOU)
        for metric, table in tables.items()
        if metric != "proposal" and np.isclose(table.iou_thrs, CURVE_IOU).any()
    }


def classes_of(tables: Mapping[str, MetricTable]) -> dict[str, dict[str, ClassResult]]:
    """The classes of every table of a labelled overlap."""
    return {metric: table.classes() for metric, table in tables.items() if metric != "proposal"}


def _mean_known(table: Floats) -> float:
    """Mean of the entries above -1; -1 if there is none."""
    known = table[table > -1]
    return float(known.mean()) if known.size else -1.0
