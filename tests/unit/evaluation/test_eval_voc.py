"""VOC metrics: the reference's figures, hand-computed cases, and what cannot be scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.errors import ConfigError, DatasetError
from detector.evaluation.precision import BoxTruth, average_precision, class_precisions, mean_ap
from detector.evaluation.recall import proposal_recalls
from detector.evaluation.voc import evaluate_voc

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics" / "voc_and_recall.json").read_text())
BOX, OTHER = [0, 0, 9, 9], [50, 50, 59, 59]
NAMES = ("cat", "dog")


def truth_of(*rows: tuple[list[float], int, bool]) -> BoxTruth:
    """Objects of one image from (box, label, ignored)."""
    return BoxTruth(
        boxes=np.array([r[0] for r in rows], np.float32).reshape(-1, 4),
        labels=np.array([r[1] for r in rows], np.int64),
        ignored=np.array([r[2] for r in rows], bool),
    )


def found_of(*rows: tuple[list[float], float, int], classes: int = 2) -> list[np.ndarray]:
    """Detections of one image per class from (box, score, label)."""
    return [
        np.array([[*box, score] for box, score, own in rows if own == label], np.float32).reshape(-1, 5)
        for label in range(classes)
    ]


def recorded() -> tuple[list[list[np.ndarray]], list[BoxTruth]]:
    """The recorded detections and objects."""
    detections = [[np.array(c, float).reshape(-1, 5) for c in image] for image in GOLDEN["detections"]]
    truth = []
    for one in GOLDEN["annotations"]:
        rows = [(box, label, False) for box, label in zip(one["bboxes"], one["labels"], strict=True)]
        rows += [
            (b, label, True) for b, label in zip(one["bboxes_ignore"], one["labels_ignore"], strict=True)
        ]
        truth.append(truth_of(*rows))
    return detections, truth


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("area_iou50", {}),
        ("area_iou75", {"iou_thr": 0.75}),
        ("voc07_11points_iou50_legacy", {"mode": "11points", "legacy": True}),
        ("area_iou50_legacy", {"legacy": True}),
    ],
)
def test_the_references_figures_are_met(name, options):
    expected = GOLDEN["expected"][name]
    table = class_precisions(*recorded(), **options)
    assert mean_ap(table) == pytest.approx(expected["mAP"], abs=1e-6)
    for found, wanted in zip(table, expected["per_class"], strict=True):
        assert found.ap == pytest.approx(wanted["ap"], abs=1e-6)
        assert (found.objects, found.detections) == (wanted["num_gts"], wanted["num_dets"])


@pytest.mark.parametrize(
    ("year", "name"),
    [(2007, "voc07_11points_iou50_legacy"), (2012, "area_iou50_legacy"), (None, "area_iou50_legacy")],
)
def test_the_year_picks_the_rule(year, name):
    detections, truth = recorded()
    found = evaluate_voc(detections, truth, [str(i) for i in range(5)], year=year)
    assert list(found) == ["mAP", "AP50"]
    assert found["mAP"] == pytest.approx(GOLDEN["expected"][name]["mAP"], abs=1e-6)
    assert found["AP50"] == round(float(found["mAP"]), 3)


def test_several_overlaps_are_averaged():
    truth = [truth_of((BOX, 0, False))]
    detections = [found_of(([0, 0, 9, 7], 0.9, 0))]  # 80 of 100 pixels
    found = evaluate_voc(detections, truth, NAMES, iou_thr=[0.5, 0.75, 0.85])
    assert found == {"mAP": pytest.approx(2 / 3), "AP50": 1.0, "AP75": 1.0, "AP85": 0.0}


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("metric", ["mAP", "recall"])
def test_a_perfect_result_scores_one(year, metric):
    _, truth = recorded()
    perfect = [
        found_of(*((b, 1.0, int(c)) for b, c in zip(t.boxes.tolist(), t.labels, strict=True)), classes=5)
        for t in truth
    ]
    found = evaluate_voc(
        perfect, truth, [str(i) for i in range(5)], metrics=[metric], year=year, iou_thr=[0.5, 0.95]
    )
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize("metric", ["mAP", "recall"])
def test_no_predictions_score_zero(metric):
    found = evaluate_voc([found_of()], [truth_of((BOX, 0, False))], NAMES, metrics=[metric])
    assert set(found.values()) == {0.0}


def test_a_pixel_more_counts_in_legacy_coordinates():
    """Boxes of 10 and 5 columns: 5/10 with the pixel, 4/9 without."""
    truth, detections = [truth_of((BOX, 0, False))], [found_of(([0, 0, 4, 9], 0.9, 0))]
    assert class_precisions(detections, truth, legacy=True)[0].ap == 1.0
    assert class_precisions(detections, truth, legacy=False)[0].ap == 0.0


def test_difficult_objects_neither_help_nor_hurt():
    truth = [truth_of((BOX, 0, True), (OTHER, 0, False))]
    detections = [found_of((BOX, 0.9, 0), (BOX, 0.8, 0), (OTHER, 0.7, 0))]
    (cat, _) = class_precisions(detections, truth)
    assert (cat.ap, cat.recall, cat.objects, cat.detections) == (1.0, 1.0, 1, 3)


def test_a_second_detection_of_an_object_is_wrong():
    """Right, wrong, right: precision 1 up to recall 1/2, then 2/3; at 11 points (6 + 5 * 2/3) / 11."""
    truth = [truth_of((BOX, 0, False), (OTHER, 0, False))]
    detections = [found_of((BOX, 0.9, 0), (BOX, 0.8, 0), (OTHER, 0.7, 0))]
    assert class_precisions(detections, truth)[0].ap == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert class_precisions(detections, truth, mode="11points")[0].ap == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_sizes_outside_a_range_do_not_take_part():
    """Large objects and false alarms leave the small range, small ones the large range."""
    large = [0, 0, 99, 99]
    truth = [truth_of((BOX, 0, False)), truth_of((large, 0, False))]
    detections = [
        found_of((BOX, 0.5, 0), ([100, 100, 199, 199], 0.9, 0)),
        found_of((large, 0.5, 0), ([150, 150, 159, 159], 0.9, 0)),
    ]
    found = evaluate_voc(detections, truth, NAMES, scale_ranges=[(0, 50), (50, 1000)])
    assert found["mAP"] == pytest.approx(0.5)
    assert (found["mAP_0_50"], found["mAP_50_1000"]) == (pytest.approx(0.5), pytest.approx(0.5))
    only_large = [found_of((BOX, 0.5, 0), ([100, 100, 199, 199], 0.9, 0)), found_of((large, 0.5, 0))]
    assert evaluate_voc(only_large, truth, NAMES, scale_ranges=[(0, 50)])["mAP_0_50"] == 1.0


def test_the_class_table_has_counts():
    truth = [truth_of((BOX, 0, False))]
    found = evaluate_voc([found_of((BOX, 0.9, 0), (OTHER, 0.4, 0))], truth, NAMES, classwise=True)
    expected = {"AP50/cat": 1.0, "recall50/cat": 1.0, "objects50/cat": 1, "detections50/cat": 2}
    assert {k: v for k, v in found.items() if "/" in k} == expected


def test_recall_counts_the_best_boxes_of_all_classes():
    truth = [truth_of((BOX, 0, False), (OTHER, 1, False))]
    detections = [found_of((OTHER, 0.9, 0), (BOX, 0.8, 1))]
    found = evaluate_voc(
        detections, truth, NAMES, metrics=["recall"], proposal_nums=(1, 2), iou_thr=[0.5, 0.7]
    )
    assert found == {
        **{"recall@1@0.5": 0.5, "recall@1@0.7": 0.5, "recall@2@0.5": 1.0, "recall@2@0.7": 1.0},
        **{"AR@1": 0.5, "AR@2": 1.0},
    }


def test_recall_in_legacy_coordinates():
    truth, found = [np.array([BOX], float)], [np.array([[0, 0, 4, 9, 1.0]])]
    assert proposal_recalls(truth, found, legacy=True).tolist() == [[1.0]] * 3
    assert proposal_recalls(truth, found).tolist() == [[0.0]] * 3


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 5))
def test_average_precision_lies_between_zero_and_one_and_grows_with_hits(hits, missed):
    right = np.cumsum(hits)
    recalls, precisions = right / (right[-1] + missed + (right[-1] == 0)), right / np.arange(1, len(hits) + 1)
    for mode in ("area", "11points"):
        value = average_precision(recalls, precisions, mode=mode)
        assert 0 <= value <= 1
        perfect = average_precision(np.linspace(0.1, 1, 10), np.ones(10), mode=mode)
        assert perfect == pytest.approx(1.0)
        assert value <= perfect + 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["bbox"]}, "mAP"),
        ({"metrics": ["mAP", "recall"]}, "exactly one"),
        ({"iou_thr": []}, "iou_thr"),
        ({"iou_thr": 1.5}, "iou_thr"),
        ({"scale_ranges": [0, 32]}, "scale_ranges"),
        ({"metrics": ["recall"], "proposal_nums": 100}, "proposal_nums"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_voc([found_of()], [truth_of((BOX, 0, False))], NAMES, **options)


@pytest.mark.parametrize("truth", [[truth_of()], [truth_of((BOX, 0, True))]], ids=["none", "difficult"])
def test_without_ground_truth_there_is_an_error_and_no_number(truth):
    with pytest.raises(DatasetError, match="--format-only"):
        evaluate_voc([found_of((BOX, 0.9, 0))], truth, NAMES)


def test_another_number_of_images_is_named():
    with pytest.raises(DatasetError, match="results of 2 images, expected 1"):
        evaluate_voc([found_of(), found_of()], [truth_of((BOX, 0, False))], NAMES)
