"""COCO metrics: box AP, mask AP and proposal recall, by hotcoco or pycocotools with the same numbers.

Classes map to the file's categories by name. ``proposal_fast`` is recall without the COCO protocol, by
``detector.evaluation.recall`` whatever the evaluator.

Boxes: detections xyxy, absolute pixels of the original image; files and evaluators xywh.
Source: Lin et al., Microsoft COCO (2014); settings and order of the sums as MMDetection's
``CocoDataset.evaluate``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detector.errors import ConfigError
from detector.evaluation.annotations import AnnotationFile, ImageId, read_truth
from detector.evaluation.comparison import Comparison, pose
from detector.evaluation.recall import proposal_recalls
from detector.evaluation.report import (
    ClassResult,
    CocoReport,
    Floats,
    Measured,
    MetricTable,
    PrCurve,
    classes_of,
    curves_of,
)
from detector.structures.samples import Detections

TABLES = ("bbox", "segm", "proposal")
FAST = "proposal_fast"
METRICS = (*TABLES, FAST)
EVALUATORS = ("hotcoco", "pycocotools")


def evaluate_coco(
    ann_file: str | Path, class_names: Sequence[str], results: Mapping[ImageId, Detections], **options: Any
) -> dict[str, float | str]:
    """The metrics of ``measure_coco``; arguments and errors as there."""
    return measure_coco(ann_file, class_names, results, **options).metrics


def measure_coco(
    ann_file: str | Path,
    class_names: Sequence[str],
    results: Mapping[ImageId, Detections],
    *,
    metrics: Sequence[str] = ("bbox",),
    classwise: bool = False,
    evaluator: str = "hotcoco",
    proposal_nums: Sequence[int] = (100, 300, 1000),
    iou_thrs: Sequence[float] | None = None,
    metric_items: Sequence[str] | None = None,
) -> Measured:
    """MMDetection's metric keys and 4-decimal values; arguments and errors as ``coco_report``.

    'proposal_fast' gives AR@<n> for each n of ``proposal_nums``, which may be any number of them when it is
    asked for alone.
    """
    tabled = [metric for metric in metrics if metric != FAST]
    if FAST in metrics and "proposal" in tabled:
        raise ConfigError(
            f"metric: found {list(metrics)}; 'proposal' and '{FAST}' both give AR@<n>, expected one of them"
        )
    values: dict[str, float | str] = {}
    curves: dict[str, PrCurve] = {}
    classes: dict[str, dict[str, ClassResult]] = {}
    if tabled or not metrics:
        report = coco_report(
            ann_file,
            class_names,
            results,
            metrics=tabled,
            evaluator=evaluator,
            proposal_nums=proposal_nums,
            iou_thrs=iou_thrs,
        )
        values.update(report.metrics(metric_items=metric_items, classwise=classwise))
        curves, classes = curves_of(report.tables), classes_of(report.tables)
    if FAST in metrics:
        values.update(_fast_recall(ann_file, class_names, results, proposal_nums, thresholds_of(iou_thrs)))
    return Measured(values, curves, classes)


def coco_report(
    ann_file: str | Path,
    class_names: Sequence[str],
    results: Mapping[ImageId, Detections],
    *,
    metrics: Sequence[str] = ("bbox",),
    evaluator: str = "hotcoco",
    proposal_nums: Sequence[int] = (100, 300, 1000),
    iou_thrs: Sequence[float] | None = None,
) -> CocoReport:
    """Compare detections with a COCO annotation file.

    Args:
        ann_file: the annotation file; every image in it counts, also one without results.
        class_names: name of each label; categories of the file that are not named do not take part.
        results: detections by image id; no detections at all give AP 0.
        metrics: any of TABLES; 'proposal' ignores labels.
        evaluator: 'hotcoco' or 'pycocotools'.
        proposal_nums: the three caps on detections per image.
        iou_thrs: thresholds; default 0.5 to 0.95 in steps of 0.05.

    Raises:
        ConfigError: an argument is not one of the accepted values.
        DatasetError: the file has no object to find, lacks a class or a mask, or the results do not fit it.
    """
    _check_options(metrics, evaluator, proposal_nums)
    thresholds = thresholds_of(iou_thrs)
    caps = sorted(int(n) for n in proposal_nums)
    file = read_truth(ann_file)
    run = _run_hotcoco if evaluator == "hotcoco" else _run_pycocotools
    tables: dict[str, MetricTable] = {}
    for metric in metrics:
        comparison = pose(metric, file, class_names, results)
        precision, recall = run(comparison, thresholds, caps)
        tables[metric] = MetricTable(
            metric=metric,
            class_names=_axis_names(metric, file, class_names),
            iou_thrs=thresholds,
            max_dets=tuple(caps),
            precision=precision,
            recall=recall,
        )
    return CocoReport(tables=tables)


def thresholds_of(iou_thrs: Sequence[float] | float | None) -> Floats:
    """(T,) thresholds; None for 0.5 to 0.95 in steps of 0.05.

    Raises:
        ConfigError: one is not in (0, 1].
    """
    if iou_thrs is None:
        return np.linspace(0.5, 0.95, 10)
    found = np.atleast_1d(np.asarray(iou_thrs, np.float64))
    if not len(found) or not ((found > 0) & (found <= 1)).all():
        raise ConfigError(f"iou_thrs: found {iou_thrs}, expected numbers above 0 and up to 1")
    return found


def counts_of(proposal_nums: Sequence[int]) -> list[int]:
    """Numbers of boxes per image, as given.

    Raises:
        ConfigError: they are no list of whole numbers above 0.
    """
    found = list(proposal_nums) if isinstance(proposal_nums, list | tuple) else []
    if not found or not all(isinstance(n, int) and n > 0 for n in found):
        raise ConfigError(
            f"proposal_nums: found {proposal_nums!r}, expected a list of whole numbers above 0, such as "
            "[100,300,1000]"
        )
    return found


def _fast_recall(
    ann_file: str | Path,
    class_names: Sequence[str],
    results: Mapping[ImageId, Detections],
    proposal_nums: Sequence[int],
    thresholds: Floats,
) -> dict[str, float]:
    """AR@<n>: mean over the thresholds of the share of objects that each image's n best boxes cover.

    Objects are those of the named classes without crowds and ignored ones, as in the reference.
    """
    counts_of(proposal_nums)
    comparison = pose("proposal", read_truth(ann_file), class_names, results)
    truth = _boxes_by_image(comparison, [r for r in comparison.truth if not (r["iscrowd"] or r["ignore"])])
    found = _boxes_by_image(comparison, comparison.detections)
    recalls = proposal_recalls(truth, found, proposal_nums=proposal_nums, iou_thrs=thresholds.tolist())
    return {f"AR@{n}": float(value) for n, value in zip(proposal_nums, recalls.mean(axis=1), strict=True)}


def _boxes_by_image(comparison: Comparison, records: Sequence[Mapping[str, Any]]) -> list[Floats]:
    """(n, 5) boxes xyxy and scores (0 for objects) of each image."""
    rows: list[list[list[float]]] = [[] for _ in comparison.images]
    for record in records:
        x, y, width, height = record["bbox"]
        rows[record["image_id"] - 1].append([x, y, x + width, y + height, record.get("score", 0.0)])
    return [np.array(found, np.float64).reshape(-1, 5) for found in rows]


def _check_options(metrics: Sequence[str], evaluator: str, proposal_nums: Sequence[int]) -> None:
    """Refuse what neither evaluator can do."""
    counts_of(proposal_nums)
    unknown = [metric for metric in metrics if metric not in TABLES]
    if unknown or not metrics:
        raise ConfigError(f"metric: found {unknown or 'none'}, expected one or more of {list(METRICS)}")
    if evaluator not in EVALUATORS:
        raise ConfigError(f"evaluator: found '{evaluator}', expected one of {list(EVALUATORS)}")
    if len(set(proposal_nums)) != 3 or min(proposal_nums) < 1:
        raise ConfigError(
            f"proposal_nums: found {list(proposal_nums)}, expected three different numbers from 1"
        )


def _axis_names(metric: str, file: AnnotationFile, class_names: Sequence[str]) -> tuple[str, ...]:
    """Names along the class axis: ascending category id, as both evaluators sort."""
    if metric == "proposal":
        return ("object",)
    return tuple(sorted(class_names, key=lambda name: file.categories[name]))


def _run_hotcoco(comparison: Comparison, thresholds: Floats, caps: list[int]) -> tuple[Floats, Floats]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M) by hotcoco."""
    import hotcoco

    truth = hotcoco.COCO(comparison.dataset(comparison.truth))
    detections = hotcoco.COCO(comparison.dataset(comparison.detections))
    run = hotcoco.COCOeval(truth, detections, comparison.kind)
    run.params.max_dets = caps
    run.params.iou_thrs = thresholds.tolist()
    run.evaluate()
    run.accumulate()
    found: Any = run.eval
    return np.asarray(found["precision"]), np.asarray(found["recall"])


def _run_pycocotools(comparison: Comparison, thresholds: Floats, caps: list[int]) -> tuple[Floats, Floats]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M) by the COCO API's own Python code."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        run = opened_pycocotools(comparison, comparison.detections)
        run.params.maxDets = caps
        run.params.iouThrs = thresholds
        run.evaluate()
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]


def opened_pycocotools(comparison: Comparison, detections: list[dict[str, Any]]) -> Any:
    """The COCO API's evaluation of some of a comparison's detections, not yet run."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    loaded = []
    for records in (comparison.truth, detections):
        coco = COCO()
        coco.dataset = comparison.dataset(records)
        coco.createIndex()
        loaded.append(coco)
    return COCOeval(*loaded, comparison.kind)
