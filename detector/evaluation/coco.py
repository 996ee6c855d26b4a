"""COCO metrics: box AP, mask AP and proposal recall, by hotcoco or pycocotools with the same numbers.

Classes map to the file's categories by name. Ids are renumbered from 1 in memory, because COCO matching
takes an annotation with id 0 for "no match". Mask results carry no box, so that their area (small, medium,
large) is the mask's.

Boxes: detections xyxy, absolute pixels of the original image; files and evaluators xywh.
Source: Lin et al., Microsoft COCO (2014); settings and order of the sums as MMDetection's
``CocoDataset.evaluate``.
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
from detector.evaluation.report import CocoReport, Floats, MetricTable
from detector.evaluation.results import box_records, segm_records
from detector.structures import masks
from detector.structures.samples import Detections

METRICS = ("bbox", "segm", "proposal")
EVALUATORS = ("hotcoco", "pycocotools")


@dataclass(frozen=True)
class _Problem:
    """One metric's input: images numbered from 1 in id order, the file's category ids (1 for proposals)."""

    metric: str
    images: list[dict[str, Any]]
    category_ids: list[int]
    truth: list[dict[str, Any]]
    detections: list[dict[str, Any]]

    @property
    def kind(self) -> str:
        """The overlap to measure: 'bbox' or 'segm'."""
        return "segm" if self.metric == "segm" else "bbox"

    def dataset(self, annotations: list[dict[str, Any]]) -> dict[str, Any]:
        """A COCO dataset dict around some annotations."""
        categories = [{"id": i, "name": str(i)} for i in self.category_ids]
        return {"info": {}, "images": self.images, "categories": categories, "annotations": annotations}


def evaluate_coco(
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
) -> dict[str, float | str]:
    """MMDetection's metric keys and 4-decimal values; arguments and errors as ``coco_report``."""
    report = coco_report(
        ann_file,
        class_names,
        results,
        metrics=metrics,
        evaluator=evaluator,
        proposal_nums=proposal_nums,
        iou_thrs=iou_thrs,
    )
    return report.metrics(metric_items=metric_items, classwise=classwise)


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
        metrics: any of METRICS; 'proposal' ignores labels.
        evaluator: 'hotcoco' or 'pycocotools'.
        proposal_nums: the three caps on detections per image.
        iou_thrs: thresholds; default 0.5 to 0.95 in steps of 0.05.

    Raises:
        ConfigError: an argument is not one of the accepted values.
        DatasetError: the file has no annotations, lacks a class or a mask, or the results do not fit the
        file.
    """
    _check_options(metrics, evaluator, proposal_nums)
    thresholds = (
        np.linspace(0.5, 0.95, 10) if iou_thrs is None else np.atleast_1d(np.asarray(iou_thrs, np.float64))
    )
    caps = sorted(int(n) for n in proposal_nums)
    file = read_truth(ann_file)
    run = _run_hotcoco if evaluator == "hotcoco" else _run_pycocotools
    tables: dict[str, MetricTable] = {}
    for metric in metrics:
        problem = _pose(metric, file, class_names, results)
        precision, recall = run(problem, thresholds, caps)
        tables[metric] = MetricTable(
            metric=metric,
            class_names=_axis_names(metric, file, class_names),
            iou_thrs=thresholds,
            max_dets=tuple(caps),
            precision=precision,
            recall=recall,
        )
    return CocoReport(tables=tables)


def _check_options(metrics: Sequence[str], evaluator: str, proposal_nums: Sequence[int]) -> None:
    """Refuse what neither evaluator can do."""
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise ConfigError(f"metric: found {unknown or 'none'}, expected one or more of {list(METRICS)}")
    if evaluator not in EVALUATORS:
        raise ConfigError(f"evaluator: found '{evaluator}', expected one of {list(EVALUATORS)}")
    if len(set(proposal_nums)) != 3 or min(proposal_nums) < 1:
        raise ConfigError(
            f"proposal_nums: found {list(proposal_nums)}, expected three different numbers from 1"
        )


def _pose(
    metric: str, file: AnnotationFile, class_names: Sequence[str], results: Mapping[ImageId, Detections]
) -> _Problem:
    """Select, check and renumber what one metric compares."""
    wanted = sorted(file.category_ids(class_names))
    if len(set(wanted)) != len(class_names):
        raise DatasetError(f"{file.path}: found classes {list(class_names)}, expected each category once")
    foreign = [image_id for image_id in results if image_id not in file.images]
    if foreign:
        raise DatasetError(
            f"{file.path}: found results for image {foreign[0]!r} ({len(foreign)} such), expected ids of "
            "this file; the results belong to another split or annotation file"
        )
    number = {image_id: i for i, image_id in enumerate(sorted(file.images), start=1)}  # type: ignore[type-var]
    images = [{"id": n, **_size(file.images[image_id])} for image_id, n in number.items()]
    truth = _truth(metric, file, set(wanted), number)
    detections = _records(metric, file, file.category_ids(class_names), results, number)
    if metric == "proposal":  # one class: without labels, objects in the order of their categories
        truth = sorted(truth, key=lambda record: int(record["category_id"]))
        for record in (*truth, *detections):
            record["category_id"] = 1
        wanted = [1]
    return _Problem(metric, images, wanted, _numbered(truth), _numbered(detections))


def _truth(
    metric: str, file: AnnotationFile, wanted: set[int], number: Mapping[ImageId, int]
) -> list[dict[str, Any]]:
    """Annotations of the wanted categories with only the keys the metric reads."""
    records = []
    for found in file.annotations:
        try:
            if found["category_id"] not in wanted:
                continue
            x, y, width, height = (float(v) for v in found["bbox"])
            record = {
                "image_id": number[found["image_id"]],
                "category_id": found["category_id"],
                "bbox": [x, y, width, height],
                "area": float(found.get("area", width * height)),
                "iscrowd": int(found.get("iscrowd", 0)),
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{file.path}: annotation {found.get('id')} has a missing or wrong value ({error!r}), "
                "expected image_id of an image in the file, category_id and bbox [x, y, width, height]"
            ) from error
        if metric == "segm":
            size = file.image_hw(found["image_id"])
            where = f"{file.path}: segmentation of annotation {found.get('id')}"
            segmentation = masks.whole_polygons(found.get("segmentation"), where=where)
            wrong = masks.segmentation_problem(segmentation, size)
            if wrong is not None:
                raise DatasetError(f"{where}: {wrong}")
            record["segmentation"] = segmentation
        records.append(record)
    return records


def _records(
    metric: str,
    file: AnnotationFile,
    category_ids: Sequence[int],
    results: Mapping[ImageId, Detections],
    number: Mapping[ImageId, int],
) -> list[dict[str, Any]]:
    """Results as COCO records, images in the order of ``results``."""
    records: list[dict[str, Any]] = []
    for image_id, detections in results.items():
        where = f"results of image {image_id!r}"
        if metric == "segm":
            found = segm_records(detections, category_ids, where=where)
            areas = masks.areas([record["segmentation"] for record in found])
            tight = masks.boxes_xywh([record["segmentation"] for record in found]).tolist()
            for record, area, box in zip(found, areas.tolist(), tight, strict=True):
                record.update(area=float(area), bbox=box)
            if any(tuple(r["segmentation"]["size"]) != file.image_hw(image_id) for r in found):
                raise DatasetError(
                    f"{where}: found masks that are not of the image's size {file.image_hw(image_id)}"
                )
        else:
            found = box_records(detections, category_ids, where=where)
            for record in found:
                record["area"] = record["bbox"][2] * record["bbox"][3]
        for record in found:
            record.update(image_id=number[image_id], iscrowd=0)
        records.extend(found)
    return records


def _size(image: Mapping[str, Any]) -> dict[str, int]:
    """Height and width of an image record, as far as it has them."""
    return {key: int(image[key]) for key in ("height", "width") if key in image}


def _numbered(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with ids from 1."""
    return [{**record, "id": i} for i, record in enumerate(records, start=1)]


def _axis_names(metric: str, file: AnnotationFile, class_names: Sequence[str]) -> tuple[str, ...]:
    """Names along the class axis: ascending category id, as both evaluators sort."""
    if metric == "proposal":
        return ("object",)
    return tuple(sorted(class_names, key=lambda name: file.categories[name]))


def _run_hotcoco(problem: _Problem, thresholds: Floats, caps: list[int]) -> tuple[Floats, Floats]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M) by hotcoco."""
    import hotcoco

    truth = hotcoco.COCO(problem.dataset(problem.truth))
    detections = hotcoco.COCO(problem.dataset(problem.detections))
    run = hotcoco.COCOeval(truth, detections, problem.kind)
    run.params.max_dets = caps
    run.params.iou_thrs = thresholds.tolist()
    run.evaluate()
    run.accumulate()
    found: Any = run.eval
    return np.asarray(found["precision"]), np.asarray(found["recall"])


def _run_pycocotools(problem: _Problem, thresholds: Floats, caps: list[int]) -> tuple[Floats, Floats]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M) by the COCO API's own Python code."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        loaded = []
        for annotations in (problem.truth, problem.detections):
            coco = COCO()
            coco.dataset = problem.dataset(annotations)
            coco.createIndex()
            loaded.append(coco)
        run = COCOeval(*loaded, problem.kind)
        run.params.maxDets = caps
        run.params.iouThrs = thresholds
        run.evaluate()
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]
