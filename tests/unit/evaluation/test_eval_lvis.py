"""LVIS metrics: real annotations, and a small implementation of the federated rules written for this test."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.errors import ConfigError, DatasetError
from detector.evaluation.annotations import read_annotations
from detector.evaluation.lvis import EVALUATORS, ITEMS, evaluate_lvis, lvis_report
from detector.structures import masks
from detector.structures.samples import Detections

FILE = Path(__file__).parents[2] / "golden" / "lvis_eval" / "lvis_val_28.json"
SHARED = os.environ.get("DETECTOR_SHARED", "")
WHOLE = Path(SHARED) / "data" / "lvis_eval" / "lvis_val_100.json"
SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def perfect(path: Path, *, with_masks: bool = True) -> dict[int | str, Detections]:
    """The annotations as results."""
    file = read_annotations(path)
    names = list(file.categories)
    return {image_id: file.truth(image_id, names, with_masks=with_masks) for image_id in file.images}


def degraded(path: Path) -> dict[int | str, Detections]:
    """Moved, dropped, repeated and relabelled objects with tied scores, and false alarms of every kind."""
    file, rng = read_annotations(path), np.random.default_rng(0)
    classes = len(file.categories)
    label = {category_id: i for i, category_id in enumerate(file.categories.values())}
    results: dict[int | str, Detections] = {}
    for image_id, truth in perfect(path, with_masks=False).items():
        kept = rng.choice(len(truth), int(0.8 * len(truth)) + 1) if len(truth) else np.zeros(0, int)
        boxes = truth.boxes.double().numpy()[kept] + rng.integers(-4, 5, (len(kept), 4)) * (
            rng.random((len(kept), 1)) < 0.7
        )
        labels = truth.labels.numpy()[kept]
        wrong = rng.random(len(kept)) < 0.1
        labels = np.where(wrong, rng.integers(0, classes, len(kept)), labels)
        image = file.images[image_id]
        listed = [label[i] for key in ("neg_category_ids", "not_exhaustive_category_ids") for i in image[key]]
        false = [*listed, *rng.integers(0, classes, 3).tolist(), *labels[:3].tolist()]
        places = rng.integers(0, 200, (len(false), 2)).astype(float)
        boxes = np.concatenate(
            [boxes, np.concatenate([places, places + rng.integers(5, 120, (len(false), 2))], axis=1)]
        )
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        results[image_id] = Detections(
            boxes=torch.from_numpy(boxes),
            scores=torch.from_numpy(rng.choice([0.2, 0.4, 0.6, 0.8], len(boxes))),
            labels=torch.from_numpy(np.concatenate([labels, false]).astype(np.int64)),
        )
    return results


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes xywh."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def match(
    found: list[Any], objects: list[Any], sizes: tuple[float, float], threshold: float, *, unsure: bool
) -> list[Any]:
    """[(score, right, ignored)] of one class in one image, and how many objects count.

    found: (score, box), best first; objects: (box, area).
    """
    outside = [not sizes[0] <= area <= sizes[1] for _, area in objects]
    order = sorted(range(len(objects)), key=lambda i: outside[i])
    taken: set[int] = set()
    rows = []
    for score, box in found:
        best, chosen = min(threshold, 1 - 1e-10), None
        for i in order:
            if i in taken or (chosen is not None and not outside[chosen] and outside[i]):
                continue
            share = overlap(np.array(box), np.array(objects[i][0]))
            if share >= best:
                best, chosen = share, i
        if chosen is not None:
            taken.add(chosen)
            rows.append((score, True, outside[chosen]))
        else:
            rows.append((score, False, unsure or not sizes[0] <= box[2] * box[3] <= sizes[1]))
    return [rows, outside.count(False)]


def precision(
    path: Path, results: dict[int | str, Detections], size: str, threshold: float
) -> dict[int, np.ndarray]:
    """Precision at 101 recalls of every category that has objects of that size, by LVIS' rules."""
    content = json.loads(path.read_text())
    ids = [category["id"] for category in content["categories"]]
    objects: dict[Any, list[Any]] = defaultdict(list)
    for one in content["annotations"]:
        objects[one["image_id"], one["category_id"]].append((one["bbox"], one["area"]))
    rows: dict[int, list[Any]] = defaultdict(list)
    totals: dict[int, int] = defaultdict(int)
    for image in sorted(content["images"], key=lambda image: image["id"]):
        one = results[image["id"]]
        corners, scores, labels = (t.numpy() for t in (one.boxes, one.scores, one.labels))
        for k, category in enumerate(ids):
            own = objects[image["id"], category]
            if not own and category not in image["neg_category_ids"]:
                continue
            chosen = [i for i in np.argsort(-scores, kind="stable").tolist() if labels[i] == k]
            found = [
                (scores[i], [*corners[i, :2], corners[i, 2] - corners[i, 0], corners[i, 3] - corners[i, 1]])
                for i in chosen
            ]
            unsure = category in image["not_exhaustive_category_ids"]
            added, counted = match(found, own, SIZES[size], threshold, unsure=unsure)
            rows[category] += added
            totals[category] += counted
    return {c: curve(rows[c], total) for c, total in totals.items() if total}


def curve(rows: list[Any], total: int) -> np.ndarray:
    """Highest precision at or beyond each of 101 recalls."""
    rows = [row for row in sorted(rows, key=lambda row: -row[0]) if not row[2]]
    right = np.cumsum([row[1] for row in rows])
    recall, share = right / total, right / np.arange(1, len(rows) + 1)
    return np.array([share[recall >= point].max(initial=0.0) for point in np.linspace(0, 1, 101)])


@pytest.fixture(scope="module")
def case() -> dict[int | str, Detections]:
    return degraded(FILE)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("size", SIZES)
def test_precision_is_that_of_the_rules_written_out(case, evaluator, size):
    """Every class, three overlaps, every size: each of the 101 precisions."""
    names = list(read_annotations(FILE).categories)
    chosen = [0.5, 0.75, 0.95]
    table = lvis_report(FILE, names, case, evaluator=evaluator, iou_thrs=chosen).tables["bbox"]
    ids = [read_annotations(FILE).categories[name] for name in table.class_names]
    column = list(SIZES).index(size)
    for t, threshold in enumerate(chosen):
        expected = precision(FILE, case, size, threshold)
        assert len(expected) > 5
        for k, category in enumerate(ids):
            wanted = expected.get(category, np.full(101, -1.0))
            np.testing.assert_allclose(table.precision[t, :, k, column, 0], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_the_frequencies_are_averaged_apart(case, evaluator):
    file = read_annotations(FILE)
    curves = [precision(FILE, case, "all", threshold) for threshold in THRESHOLDS]
    found = evaluate_lvis(FILE, list(file.categories), case, evaluator=evaluator)
    frequency = {record["id"]: record["frequency"] for record in file.category_records.values()}
    for letter in "rcf":
        ours = np.mean([one[c] for one in curves for c in one if frequency[c] == letter])
        assert found[f"bbox_AP{letter}"] == round(float(ours), 3)
    assert found["bbox_AP"] == round(float(np.mean([value for one in curves for value in one.values()])), 3)
    assert 0.1 < float(found["bbox_AP"]) < 0.9


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_perfect_result_scores_one(evaluator):
    names = list(read_annotations(FILE).categories)
    found = evaluate_lvis(
        FILE, names, perfect(FILE), metrics=["bbox", "segm", "proposal"], evaluator=evaluator, classwise=True
    )
    assert {value for value in found.values() if isinstance(value, float)} == {1.0}
    assert [key for key in found if key.startswith("segm") and "/" not in key] == [
        *(f"segm_{item}" for item in ITEMS),
        "segm_mAP_copypaste",
    ]
    assert found["bbox_mAP_copypaste"] == " ".join(f"{item}:1.000" for item in ITEMS)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="DETECTOR_SHARED does not name the folder of the large files")
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_perfect_result_of_all_images_scores_one(evaluator):
    names = list(read_annotations(WHOLE).categories)
    found = evaluate_lvis(WHOLE, names, perfect(WHOLE), metrics=["bbox", "segm"], evaluator=evaluator)
    assert {value for value in found.values() if isinstance(value, float)} == {1.0}


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("metric", ["bbox", "segm", "proposal", "proposal_fast"])
def test_no_predictions_score_zero(evaluator, metric):
    names = list(read_annotations(FILE).categories)
    found = evaluate_lvis(FILE, names, {}, metrics=[metric], evaluator=evaluator)
    assert {value for value in found.values() if isinstance(value, float)} == {0.0}


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("own", [False, True], ids=["scores", "mask scores"])
def test_only_the_300_best_of_an_image_take_part(evaluator, own):
    """The right detection is the 301st, by its score or by its mask's score, and so is never seen."""
    file = read_annotations(FILE)
    names = list(file.categories)
    image_id, truth = next((i, d) for i, d in perfect(FILE).items() if len(d))
    count = 300
    rest = torch.linspace(0.9, 0.5, count)
    scores, low = torch.cat([rest, torch.tensor([0.1])]), torch.full((count + 1,), 0.7)
    far = masks.encode(np.zeros(file.image_hw(image_id), np.uint8))
    found = Detections(
        boxes=torch.cat([torch.zeros(count, 4), truth.boxes[:1]]),
        scores=low if own else scores,
        labels=torch.cat([truth.labels[:1]] * (count + 1)),
        masks=[far] * count + [truth.masks[0]],
        mask_scores=scores if own else None,
    )
    assert (
        evaluate_lvis(FILE, names, {image_id: found}, metrics=["segm"], evaluator=evaluator)["segm_AP"] == 0.0
    )
    best = replace(found, scores=torch.ones(count + 1) - 0.1 * low, mask_scores=1 - scores)
    assert (
        evaluate_lvis(FILE, names, {image_id: best}, metrics=["segm"], evaluator=evaluator)["segm_AP"] > 0.0
    )


def changed(folder: Path, key: str) -> Path:
    """The file without a key of its images or categories."""
    content = json.loads(FILE.read_text())
    for record in (*content["images"], *content["categories"]):
        record.pop(key, None)
    (folder / "changed.json").write_text(json.dumps(content))
    return folder / "changed.json"


@pytest.mark.parametrize("key", ["frequency", "neg_category_ids", "not_exhaustive_category_ids"])
def test_a_file_that_is_not_lvis_is_named(tmp_path, key):
    path = changed(tmp_path, key)
    with pytest.raises(DatasetError, match=rf"changed\.json: .*{key}.*CocoDataset"):
        evaluate_lvis(path, list(read_annotations(path).categories), {})


@pytest.mark.parametrize("options", [{"metrics": ["mAP"]}, {"metrics": []}, {"evaluator": "lvis"}], ids=str)
def test_unknown_options_are_named(options):
    with pytest.raises(ConfigError, match="expected one"):
        evaluate_lvis(FILE, ["x"], {}, **options)
