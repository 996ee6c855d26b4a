"""LVIS metrics: AP of boxes or masks, also over rare, common and frequent classes.

LVIS is annotated federatedly: of each image only some classes were looked for. Detections of a class that
is neither among the image's objects nor in its ``neg_category_ids`` do not take part; those that find nothing
do not count as false where the class is in ``not_exhaustive_category_ids``. The 300 best detections of an
image, of all classes together, take part.

hotcoco implements these rules; the second evaluator is pycocotools' matching with the rules put around it
here (the ``lvis`` package is not needed).

Boxes: detections xyxy, absolute pixels of the original image; files and evaluators xywh.
Source: Gupta et al., LVIS (2019), section 3 and its API; keys and 3 decimals as MMDetection's
``LVISDataset.evaluate``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector.errors import ConfigError, DatasetError
from detector.evaluation.annotations import AnnotationFile, ImageId, read_truth
from detector.evaluation.coco import EVALUATORS, FAST, evaluate_coco, opened_pycocotools, thresholds_of
from detector.evaluation.comparison import Comparison, pose
from detector.evaluation.report import (
    ClassResult,
    Floats,
    Measured,
    MetricTable,
    PrCurve,
    classes_of,
    curves_of,
)
from detector.structures.samples import Detections

TABLES = ("bbox", "segm")
METRICS = (*TABLES, "proposal", FAST)
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
ITEMS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
MAX_DETECTIONS = 300


@dataclass(frozen=True)
class LvisReport:
    """The tables of every metric that was asked for.

    Attributes:
        tables: by metric; one cap, MAX_DETECTIONS.
        frequency: 'r', 'c' or 'f' by class name.
    """

    tables: dict[str, MetricTable]
    frequency: Mapping[str, str]

    def stats(self, metric: str) -> dict[str, float]:
        """ITEMS in [0, 1]; -1 where there is no object of that kind."""
        table = self.tables[metric]
        values = {
            "AP": table.average_precision(),
            "AP50": table.average_precision(iou=0.5),
            "AP75": table.average_precision(iou=0.75),
        }
        values.update(
            {f"AP{area[0]}": table.average_precision(area=area) for area in ("small", "medium", "large")}
        )
        for letter in FREQUENCIES:
            rows = [i for i, name in enumerate(table.class_names) if self.frequency[name] == letter]
            part = table.precision[:, :, rows, 0, -1]
            known = part[part > -1]
            values[f"AP{letter}"] = float(known.mean()) if known.size else -1.0
        return values

    def metrics(self, *, classwise: bool = False) -> dict[str, float | str]:
        """MMDetection's keys, 3 decimals: ``bbox_AP`` to ``bbox_APf`` and a line to copy.

        Args:
            classwise: also ``<metric>_AP/<class>`` (classes without ground truth are left out).
        """
        values: dict[str, float | str] = {}
        for metric, table in self.tables.items():
            stats = {name: round(value, 3) for name, value in self.stats(metric).items()}
            values.update({f"{metric}_{name}": value for name, value in stats.items()})
            values[f"{metric}_mAP_copypaste"] = " ".join(
                f"{name}:{value:.3f}" for name, value in stats.items()
            )
            if classwise:
                known = {name: ap for name, ap in table.by_class().items() if ap == ap}
                values.update({f"{metric}_AP/{name}": round(ap, 3) for name, ap in known.items()})
        return values


def evaluate_lvis(
    ann_file: str | Path, class_names: Sequence[str], results: Mapping[ImageId, Detections], **options: Any
) -> dict[str, float | str]:
    """The metrics of ``measure_lvis``; arguments and errors as there."""
    return measure_lvis(ann_file, class_names, results, **options).metrics


def measure_lvis(
    ann_file: str | Path,
    class_names: Sequence[str],
    results: Mapping[ImageId, Detections],
    *,
    metrics: Sequence[str] = ("bbox",),
    classwise: bool = False,
    evaluator: str = "hotcoco",
    proposal_nums: Sequence[int] = (100, 300, 1000),
    iou_thrs: Sequence[float] | None = None,
) -> Measured:
    """Metric keys of LVIS; arguments and errors as ``lvis_report``.

    'proposal' and 'proposal_fast' are class-free and measured as on COCO: federated rules need classes.
    """
    check_metrics(metrics)
    tabled = [metric for metric in metrics if metric in TABLES]
    values: dict[str, float | str] = {}
    curves: dict[str, PrCurve] = {}
    classes: dict[str, dict[str, ClassResult]] = {}
    shared: dict[str, Any] = {"evaluator": evaluator, "iou_thrs": iou_thrs}
    if tabled:
        report = lvis_report(ann_file, class_names, results, metrics=tabled, **shared)
        values.update(report.metrics(classwise=classwise))
        curves, classes = curves_of(report.tables), classes_of(report.tables)
    free = [metric for metric in metrics if metric not in TABLES]
    if free:
        shared["proposal_nums"] = proposal_nums
        values.update(evaluate_coco(ann_file, class_names, results, metrics=free, **shared))
    return Measured(values, curves, classes)


def lvis_report(
    ann_file: str | Path,
    class_names: Sequence[str],
    results: Mapping[ImageId, Detections],
    *,
    metrics: Sequence[str] = ("bbox",),
    evaluator: str = "hotcoco",
    iou_thrs: Sequence[float] | None = None,
) -> LvisReport:
    """Compare detections with an LVIS annotation file.

    Args:
        ann_file: the annotation file, v0.5 or v1; every image in it counts, also one without results.
        class_names: name of each label; categories of the file that are not named do not take part.
        results: detections by image id.
        metrics: any of TABLES.
        evaluator: 'hotcoco', or 'pycocotools' for its matching with LVIS' rules around it.
        iou_thrs: thresholds; default 0.5 to 0.95 in steps of 0.05.

    Raises:
        ConfigError: an argument is not one of the accepted values.
        DatasetError: the file is no LVIS file or has no object to find, or the results do not fit it.
    """
    check_metrics(metrics, TABLES)
    if evaluator not in EVALUATORS:
        raise ConfigError(f"evaluator: found '{evaluator}', expected one of {list(EVALUATORS)}")
    thresholds = thresholds_of(iou_thrs)
    file = read_truth(ann_file)
    names = tuple(sorted(class_names, key=lambda name: file.category_ids([name])[0]))
    frequency = {name: _frequency(file, name) for name in names}
    run = _run_hotcoco if evaluator == "hotcoco" else _run_pycocotools
    tables = {}
    for metric in metrics:
        best = {image_id: _best(found, metric) for image_id, found in results.items()}
        comparison = _federated(file, pose(metric, file, class_names, best))
        precision, recall = run(comparison, thresholds)
        tables[metric] = MetricTable(
            metric=metric,
            class_names=names,
            iou_thrs=thresholds,
            max_dets=(MAX_DETECTIONS,),
            precision=precision,
            recall=recall,
        )
    return LvisReport(tables=tables, frequency=frequency)


def check_metrics(metrics: Sequence[str], known: Sequence[str] = METRICS) -> None:
    """Refuse what is no metric here.

    Raises:
        ConfigError: naming it.
    """
    unknown = [metric for metric in metrics if metric not in known]
    if unknown or not metrics:
        raise ConfigError(f"metric: found {unknown or 'none'}, expected one or more of {list(known)}")


def _frequency(file: AnnotationFile, name: str) -> str:
    """'r', 'c' or 'f' of a class as the file says."""
    found = file.category_records[name].get("frequency")
    if found not in FREQUENCIES:
        raise DatasetError(
            f"{file.path}: category '{name}' has frequency {found!r}, expected 'r', 'c' or 'f'; this is no "
            "LVIS file. Use type CocoDataset for COCO annotations"
        )
    return str(found)


def _best(found: Detections, metric: str) -> Detections:
    """The MAX_DETECTIONS best of one image, in their order; of equal scores the lower classes, as a file has.

    Masks are ranked by scores of their own where a model gives them.
    """
    if len(found) <= MAX_DETECTIONS:
        return found
    own = found.mask_scores if metric == "segm" else None
    scores = (found.scores if own is None else own).double().numpy()
    rows = np.sort(np.lexsort((found.labels.numpy(), -scores))[:MAX_DETECTIONS])
    return Detections(
        boxes=found.boxes[rows],
        scores=found.scores[rows],
        labels=found.labels[rows],
        masks=None if found.masks is None else [found.masks[int(row)] for row in rows],
        mask_scores=None if found.mask_scores is None else found.mask_scores[rows],
    )


def _federated(file: AnnotationFile, comparison: Comparison) -> Comparison:
    """The comparison with what the file says was looked for in each image, and no crowds."""
    for image_id, image in file.images.items():
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if not isinstance(image.get(key), list):
                raise DatasetError(
                    f"{file.path}: image {image_id} has no list `{key}`; this is no LVIS file. Use type "
                    "CocoDataset for COCO annotations"
                )
            comparison.images[comparison.numbers[image_id] - 1][key] = image[key]
    for record in comparison.truth:
        record["iscrowd"] = 0  # LVIS has none
    return comparison


def _run_hotcoco(comparison: Comparison, thresholds: Floats) -> tuple[Floats, Floats]:
    """Precision (T, R, K, A, 1) and recall (T, K, A, 1) by hotcoco."""
    import hotcoco

    content = comparison.dataset(comparison.truth)
    # its summary asks for a group; ours reads the table by class instead
    content["categories"] = [{**category, "frequency": "f"} for category in content["categories"]]
    truth = hotcoco.COCO(content)
    detections = hotcoco.COCO(comparison.dataset(comparison.detections))
    run = hotcoco.COCOeval(truth, detections, comparison.kind, lvis_style=True)
    run.params.iou_thrs = thresholds.tolist()
    run.evaluate()
    run.accumulate()
    found: Any = run.eval
    return np.asarray(found["precision"]), np.asarray(found["recall"])


def _run_pycocotools(comparison: Comparison, thresholds: Floats) -> tuple[Floats, Floats]:
    """The same by pycocotools, told by hand which detections take part and which cannot be false."""
    looked_for = {image["id"]: set(image["neg_category_ids"]) for image in comparison.images}
    for record in comparison.truth:
        looked_for[record["image_id"]].add(record["category_id"])
    taking_part = [d for d in comparison.detections if d["category_id"] in looked_for[d["image_id"]]]
    unsure = {image["id"]: set(image["not_exhaustive_category_ids"]) for image in comparison.images}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        run = opened_pycocotools(comparison, taking_part)
        run.params.maxDets, run.params.iouThrs = [MAX_DETECTIONS], thresholds
        run.evaluate()
        for one in run.evalImgs:
            if one is not None and one["category_id"] in unsure[one["image_id"]]:
                one["dtIgnore"] = np.logical_or(one["dtIgnore"], np.asarray(one["dtMatches"]) == 0)
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]
