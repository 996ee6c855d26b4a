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
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("evaluator", "metric"), [("hotcoco", "bbox"), ("hotcoco", "segm"), ("pycocotools", "segm")]
)
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


@pytest.mark.parametrize(
    "options",
    [{"metrics": ["bobx"]}, {"evaluator": "other"}, {"proposal_nums": (100,)}, {"metric_items": ["AP"]}],
)
def test_unknown_options_are_named(tmp_path, options):
    path = write_file(tmp_path, [box(5, 7, [0, 0, 50, 50], 1)])
    with pytest.raises(ConfigError, match=re.escape(next(iter(options)).removesuffix("s"))):
        evaluate_coco(path, ("cat",), {}, **options)


def random_case(seed: int, folder: Path) -> tuple[Path, dict[int | str, Detections]]:
    """A small data set with crowds, tied scores, empty images, equal boxes and sizes at the area limits."""
    rng = np.random.default_rng(seed)
    sides = np.array([4, 31, 32, 33, 50, 95, 96])
    images = [{"id": int(i), "file_name": f"{i}", "height": 128, "width": 128} for i in rng.permutation(4)]
    objects: list[dict[str, Any]] = []
    results: dict[int | str, Detections] = {}
    for image in images:
        found = []
        for _ in range(rng.integers(0, 5)):
            w, h = (int(v) for v in rng.choice(sides, 2))
            x, y = (int(rng.integers(0, 129 - v)) for v in (w, h))
            outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            crowd = int(rng.random() < 0.2)
            objects.append(
                box(
                    image["id"],
                    int(rng.choice([3, 7])),
                    [x, y, w, h],
                    len(objects),
                    iscrowd=crowd,
                    segmentation=outline,
                )
            )
            found += [[x, y, x + w, y + h]] * int(rng.integers(0, 3))
        found += [
            [int(v) for v in (*rng.integers(0, 60, 2), *rng.integers(60, 128, 2))]
            for _ in range(rng.integers(0, 3))
        ]
        shift = rng.integers(-6, 7, (len(found), 4)) * (rng.random((len(found), 1)) < 0.7)
        boxes = np.clip(np.array(found).reshape(-1, 4) + shift, 0, 128)
        bitmaps = np.zeros((len(found), 128, 128), np.uint8)
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes, strict=True):
            bitmap[y1:y2, x1:x2] = 1
        rows = [(b.tolist(), float(rng.choice([0.3, 0.6, 0.9])), int(rng.integers(0, 2))) for b in boxes]
        results[image["id"]] = detections(rows, masks.encode_batch(bitmaps))
    objects.append(
        box(images[0]["id"], 7, [0, 0, 64, 64], len(objects), segmentation=[[0, 0, 64, 0, 64, 64, 0, 64]])
    )
    return write_file(folder, objects, images=images), results


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_both_evaluators_agree_on_random_cases(seed, tmp_path_factory):
    path, results = random_case(seed, tmp_path_factory.mktemp("case"))
    reports = [
        coco_report(
            path,
            ("cat", "dog"),
            results,
            metrics=["bbox", "segm", "proposal"],
            evaluator=e,
            proposal_nums=(1, 3, 100),
        )
        for e in EVALUATORS
    ]
    for metric in ("bbox", "segm", "proposal"):
        np.testing.assert_allclose(
            reports[0].tables[metric].precision, reports[1].tables[metric].precision, rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(
            reports[0].tables[metric].recall, reports[1].tables[metric].recall, rtol=0, atol=1e-12
        )


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
