"""COCO metrics: the recorded numbers, MMDetection's own figures, and equality of the two evaluators."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.errors import ConfigError, DatasetError
from detector.evaluation.annotations import read_annotations
from detector.evaluation.coco import coco_report, evaluate_coco
from detector.evaluation.results import from_mmdet, load_results
from detector.structures import masks
from detector.structures.samples import Detections

GOLDEN = Path(__file__).parents[2] / "golden"
VAL = GOLDEN / "coco_eval" / "instances_val2014_100.json"
BCCD = GOLDEN / "checkpoint" / "annotations" / "test.json"
BCCD_CLASSES = ("RBC", "WBC", "Platelets")
EVALUATORS = ("hotcoco", "pycocotools")


def detections(rows: list[tuple[list[float], float, int]], rles: list[Any] | None = None) -> Detections:
    """Rows of (xyxy, score, label)."""
    return Detections(
        boxes=torch.tensor([r[0] for r in rows], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([r[1] for r in rows], dtype=torch.float32),
        labels=torch.tensor([r[2] for r in rows], dtype=torch.int64),
        masks=rles,
    )


def write_file(folder: Path, annotations: list[dict[str, Any]], **parts: Any) -> Path:
    """An annotation file with two 100 x 100 images and categories cat (id 7) and dog (id 3)."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 100} for i in (10, 5)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": annotations,
        **parts,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def box(image_id: int, category_id: int, xywh: list[float], number: int, **more: Any) -> dict[str, Any]:
    """One annotation."""
    area = xywh[2] * xywh[3]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": xywh,
        "area": area,
        "iscrowd": 0,
        **more,
    }


def recorded_results(metric: str) -> dict[int | str, Detections]:
    """The recorded fake results, float64 as in their file."""
    file = read_annotations(VAL)
    label = {category_id: i for i, category_id in enumerate(file.categories.values())}
    by_image = defaultdict(list)
    for record in json.loads((VAL.parent / f"instances_val2014_fake{metric}100_results.json").read_text()):
        by_image[record["image_id"]].append(record)
    found: dict[int | str, Detections] = {}
    for image_id, records in by_image.items():
        boxes = torch.tensor([r.get("bbox", [0, 0, 1, 1]) for r in records], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        found[image_id] = Detections(
            boxes=boxes,
            scores=torch.tensor([r["score"] for r in records], dtype=torch.float64),
            labels=torch.tensor([label[r["category_id"]] for r in records]),
            masks=None if metric == "bbox" else [r["segmentation"] for r in records],
        )
    return found


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("metric", ["bbox", "segm"])
def test_recorded_coco_numbers_are_met(evaluator, metric):
    expected = json.loads((VAL.parent / "expected_pycocotools_2.0.11.json").read_text())[metric]
    names = list(read_annotations(VAL).categories)
    report = coco_report(
        VAL,
        names,
        recorded_results(metric),
        metrics=[metric],
        evaluator=evaluator,
        proposal_nums=(1, 10, 100),
    )
    np.testing.assert_allclose(report.tables[metric].stats(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_reference_results_pickle_scores_what_the_reference_printed(evaluator):
    expected = json.loads((GOLDEN / "checkpoint" / "expected.json").read_text())["epoch_4"]["test"]
    results = load_results(GOLDEN / "checkpoint" / "results_test.pkl")
    by_id = {i: from_mmdet(r) for i, r in zip(read_annotations(BCCD).images, results, strict=True)}
    found = evaluate_coco(BCCD, BCCD_CLASSES, by_id, classwise=True, evaluator=evaluator)
    assert {k: found[k] for k in expected if k.startswith("bbox")} == {
        k: v for k, v in expected.items() if k.startswith("bbox")
    }
    assert {name: round(float(found[f"bbox_AP/{name}"]), 3) for name in BCCD_CLASSES} == {
        name: expected[name] for name in BCCD_CLASSES
    }
    assert found["bbox_mAP_copypaste"] == "0.3980 0.7940 0.3534 0.2010 0.3112 0.3490"


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("first_id", [0, 1])
def test_a_perfect_result_scores_one_whatever_the_first_annotation_id(tmp_path, evaluator, first_id):
    square = [[10, 10, 50, 10, 50, 50, 10, 50]]
    objects = [
        box(5, 7, [10, 10, 40, 40], first_id, segmentation=square),
        box(10, 3, [10, 10, 40, 40], first_id + 1, segmentation=square),
    ]
    path = write_file(tmp_path, objects)
    file = read_annotations(path)
    perfect = {i: file.truth(i, ("dog", "cat"), with_masks=True) for i in file.images}
    found = evaluate_coco(
        path, ("dog", "cat"), perfect, metrics=["bbox", "segm", "proposal"], evaluator=evaluator
    )
    assert (found["bbox_mAP"], found["segm_mAP"], found["AR@100"]) == (1.0, 1.0, 1.0)


def test_a_hand_computed_case(tmp_path):
    """Two cats, one found with IoU 0.8 after one false alarm: precision 1/2 up to recall 1/2."""
    path = write_file(tmp_path, [box(5, 7, [0, 0, 50, 50], 1), box(10, 7, [0, 0, 50, 50], 2)])
    results = {5: detections([([60, 60, 90, 90], 0.9, 0), ([0, 0, 50, 40], 0.8, 0)])}
    report = coco_report(path, ("cat",), results)
    table = report.tables["bbox"]
    assert table.average_precision(iou=0.5) == pytest.approx(0.5 * 51 / 101, abs=1e-12)
    assert table.average_precision(iou=0.85) == 0.0
    assert table.average_recall(iou=0.5) == 0.5
    curve = table.pr_curve(iou=0.5)
    assert (curve.precision[0], curve.precision[50], curve.precision[51]) == (0.5, 0.5, 0.0)


def test_classes_map_by_name_not_by_position(tmp_path):
    path = write_file(tmp_path, [box(5, 7, [0, 0, 50, 50], 1), box(5, 3, [40, 40, 20, 20], 2)])
    results = {5: detections([([0, 0, 50, 50], 0.9, 1)])}
    report = coco_report(path, ("dog", "cat"), results)
    assert report.tables["bbox"].by_class() == {"dog": 0.0, "cat": pytest.approx(1.0)}
    assert evaluate_coco(path, ("cat",), {5: detections([([0, 0, 50, 50], 0.9, 0)])})["bbox_mAP"] == 1.0


def test_mask_area_decides_the_size_class_not_the_box(tmp_path):
    """The false alarm is a thin diagonal: large box, small mask, so no large object."""
    whole = [[0, 0, 99, 0, 99, 99, 0, 99]]
    path = write_file(tmp_path, [box(5, 7, [0, 0, 99, 99], 1, segmentation=whole)])
    truth = read_annotations(path).truth(5, ("cat",), with_masks=True)
    rows = [([0, 0, 99, 99], 0.9, 0), ([0, 0, 99, 99], 0.95, 0)]
    found = detections(rows, [*(truth.masks or []), masks.encode(np.eye(100, dtype=np.uint8))])
    table = coco_report(path, ("cat",), {5: found}, metrics=["segm"]).tables["segm"]
    assert table.average_precision(area="large") == pytest.approx(1.0)
    assert table.average_precision() == pytest.approx(0.5)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("results", [{}, {5: detections([])}, {5: detections([], [])}])
def test_no_predictions_score_zero(tmp_path, evaluator, results):
    square = [[10, 10, 50, 10, 50, 50, 10, 50]]
    path = write_file(tmp_path, [box(5, 7, [10, 10, 40, 40], 1, segmentation=square)])
    found = evaluate_coco(path, ("cat", "dog"), results, metrics=["bbox", "segm"], evaluator=evaluator)
    assert (found["bbox_mAP"], found["segm_mAP_50"]) == (0.0, 0.0)


def test_items_and_caps_are_selectable(tmp_path):
    path = write_file(tmp_path, [box(5, 7, [0, 0, 50, 50], 1)])
    results = {5: detections([([60, 60, 90, 90], 0.9, 0), ([0, 0, 50, 50], 0.8, 0)])}
    found = evaluate_coco(
        path, ("cat",), results, proposal_nums=(1, 10, 100), iou_thrs=[0.5], metric_items=["mAP_50", "AR@100"]
    )
    assert found == {
        "bbox_mAP_50": 0.5,
        "bbox_AR@100": 0.0,
        "bbox_mAP_copypaste": "0.5000 0.5000 -1.0000 -1.0000 1.0000 -1.0000",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, "--format-only"),
        ({"categories": [{"id": 7, "name": "cats"}, {"id": 3, "name": "dog"}]}, "did you mean 'cats'"),
        ({"images": [{"id": 10, "file_name": "a"}]}, "another split"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, change, message):
    path = write_file(tmp_path, **{"annotations": [box(10, 7, [0, 0, 50, 50], 1)], **change})
    with pytest.raises(DatasetError, match=message):
        evaluate_coco(path, ("cat",), {5: detections([([0, 0, 50, 50], 0.8, 0)])})


@pytest.mark.parametrize("content", ["{not json", "[]", '{"images": []}'])
def test_a_file_that_is_not_coco_is_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"broken\.json"):
        evaluate_coco(path, ("cat",), {})


@pytest.mark.parametrize(
    ("results", "metric", "message"),
    [
        (detections([([0, 0, 5, 5], 0.5, 2)]), "bbox", "found labels 2 to 2"),
        (detections([([0, 0, float("nan"), 5], 0.5, 0)]), "bbox", "NaN"),
        (detections([([0, 0, 5, 5], 0.5, 0)]), "segm", "boxes without masks"),
        (
            detections([([0, 0, 5, 5], 0.5, 0)], [masks.encode(np.ones((9, 9), np.uint8))]),
            "segm",
            "image's size",
        ),
    ],
)
def test_results_that_do_not_fit_are_named(tmp_path, results, metric, message):
    path = write_file(tmp_path, [box(5, 7, [0, 0, 9, 9], 1, segmentation=[[0, 0, 9, 0, 9, 9]])])
    with pytest.raises(DatasetError, match=message):
        evaluate_coco(path, ("cat", "dog"), {5: results}, metrics=[metric])


def test_fast_recall_is_that_of_the_references_own_code(tmp_path):
    """Three objects; crowds, ignored ones and other classes do not count; each box covers one object."""
    objects = [
        box(5, 7, [0, 0, 50, 50], 1),
        box(5, 3, [50, 50, 40, 40], 2),
        box(10, 7, [0, 0, 50, 50], 3),
        box(10, 7, [60, 60, 20, 20], 4, iscrowd=1),
        box(10, 7, [60, 20, 20, 20], 5, ignore=1),
    ]
    path = write_file(tmp_path, objects)
    rows = [([0, 0, 50, 40], 0.9, 0), ([0, 0, 50, 50], 0.8, 0), ([50, 50, 90, 90], 0.7, 0)]
    found = evaluate_coco(
        path, ("cat", "dog"), {5: detections(rows)}, metrics=["proposal_fast"], proposal_nums=(1, 2, 3)
    )
    # covered with IoU 0.8 (seven of ten overlaps) by the first box, wholly by the second
    assert found == {
        "AR@1": pytest.approx(0.7 / 3),
        "AR@2": pytest.approx(1 / 3),
        "AR@3": pytest.approx(2 / 3),
    }
    half = evaluate_coco(
        path, ("cat",), {5: detections(rows)}, metrics=["proposal_fast"], proposal_nums=[7], iou_thrs=[0.5]
    )
    assert half == {"AR@7": 0.5}


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_perfect_result_of_real_annotations_scores_one(evaluator):
    file = read_annotations(VAL)
    names = sorted({a["category_id"] for a in file.annotations if not a["iscrowd"]})
    names = [name for name, i in file.categories.items() if i in names]
    perfect = {i: file.truth(i, names, with_masks=True) for i in file.images}
    for metrics in (["bbox", "segm", "proposal"], ["proposal_fast"]):
        found = evaluate_coco(VAL, names, perfect, metrics=metrics, evaluator=evaluator, classwise=True)
        assert {value for value in found.values() if isinstance(value, float)} == {1.0}


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("metric", ["bbox", "segm", "proposal", "proposal_fast"])
@pytest.mark.parametrize(
    "objects",
    [[box(5, 3, [0, 0, 9, 9], 1)], [box(5, 7, [0, 0, 9, 9], 1, iscrowd=1)]],
    ids=["others", "crowd"],
)
def test_nothing_to_find_is_an_error_and_no_minus_one(tmp_path, evaluator, metric, objects):
    """All numbers would be -1."""
    path = write_file(tmp_path, objects)
    with pytest.raises(DatasetError, match=r"no object of the classes cat .*--format-only"):
        evaluate_coco(path, ("cat",), {}, metrics=[metric], evaluator=evaluator)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_an_image_may_have_more_masks_than_255(tmp_path, evaluator):
    square = [[10, 10, 50, 10, 50, 50, 10, 50]]
    path = write_file(tmp_path, [box(5, 7, [10, 10, 40, 40], 1, segmentation=square)])
    rows = [([10, 10, 50, 50], 1 - i / 1000, 0) for i in range(300)]
    found = {5: detections(rows, [masks.from_segmentation(square, (100, 100))] * 300)}
    assert evaluate_coco(path, ("cat",), found, metrics=["segm"], evaluator=evaluator)["segm_mAP"] == 1.0


def test_two_metrics_of_the_same_names_exclude_each_other(tmp_path):
    path = write_file(tmp_path, [box(5, 7, [0, 0, 9, 9], 1)])
    with pytest.raises(ConfigError, match="one of them"):
        evaluate_coco(path, ("cat",), {}, metrics=["proposal", "proposal_fast"])


@pytest.mark.parametrize("iou_thrs", [[], [0.0], [1.5]], ids=str)
def test_overlaps_outside_their_range_are_named(tmp_path, iou_thrs):
    path = write_file(tmp_path, [box(5, 7, [0, 0, 9, 9], 1)])
    with pytest.raises(ConfigError, match="iou_thrs"):
        evaluate_coco(path, ("cat",), {}, iou_thrs=iou_thrs)


@pytest.mark.parametrize(
    "options",
    [
        {"metrics": ["bobx"]},
        {"evaluator": "other"},
        {"proposal_nums": (100,)},
        {"proposal_nums": 100},
        {"metric_items": ["AP"]},
        {"metric_items": "AP"},
    ],
)
def test_unknown_options_are_named(tmp_path, options):
    path = write_file(tmp_path, [box(5, 7, [0, 0, 50, 50], 1)])
    with pytest.raises(ConfigError, match=re.escape(next(iter(options)).removesuffix("s"))):
        evaluate_coco(path, ("cat",), {}, **options)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_degenerate_polygon_is_left_out_as_in_training(tmp_path, evaluator, caplog):
    square = [0, 0, 50, 0, 50, 50, 0, 50]
    path = write_file(tmp_path, [box(5, 7, [0, 0, 50, 50], 1, segmentation=[[1, 1, 2, 2], square])])
    rle = masks.from_segmentation([square], (100, 100))
    results = {5: detections([([0, 0, 50, 50], 0.8, 0)], [rle])}
    found = evaluate_coco(path, ("cat", "dog"), results, metrics=("segm",), evaluator=evaluator)
    assert found["segm_mAP"] == 1
    assert "annotation 1: 1 of 2 polygons" in caplog.text


def test_an_object_of_degenerate_polygons_alone_is_an_error(tmp_path):
    path = write_file(tmp_path, [box(5, 7, [0, 0, 50, 50], 1, segmentation=[[1, 1, 2, 2]])])
    with pytest.raises(DatasetError, match=r"annotation 1: .*three points"):
        evaluate_coco(path, ("cat",), {}, metrics=("segm",))
