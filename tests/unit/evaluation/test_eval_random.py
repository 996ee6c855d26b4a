"""Random cases: hotcoco, pycocotools behind our own door, and pycocotools used by itself, number by number.

A normal run takes CASES of them; ``DETECTOR_EVAL_CASES=2500`` sets another count.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.evaluation.coco import EVALUATORS, coco_report
from detector.evaluation.lvis import lvis_report
from detector.structures.samples import Detections

CASES = int(os.environ.get("DETECTOR_EVAL_CASES", "300"))
GROUP = 50
SIDE = 128
CATEGORIES = {"dog": 3, "cat": 7, "owl": 12}  # the names that are evaluated, plus one that is not
NAMES = ("cat", "dog")
SIDES = (0, 1, 4, 16, 31, 32, 33, 64, 95, 96, 97)  # 32 * 32 and 96 * 96 are the limits of COCO's sizes
AREAS = (1023.999, 1024.0, 1024.001, 9215.999, 9216.0, 9216.001)
SCORES = (0.0, 0.3, 0.3, 0.6, 0.9, 1.0)
CAPS = ((1, 3, 100), (1, 2, 3), (100, 300, 1000))


def random_box(rng: np.random.Generator) -> list[float]:
    """A box xywh; sides at the limits of the sizes, half of them on whole pixels."""
    w, h = (float(v) for v in rng.choice(SIDES, 2))
    x, y = (float(rng.integers(0, int(SIDE - v) + 1)) for v in (w, h))
    if rng.random() < 0.5:
        x, y, w, h = (round(v + float(rng.random()), 2) for v in (x, y, w, h))
    return [x, y, w, h]


def near(rng: np.random.Generator, box: list[float]) -> list[float]:
    """The box itself, one that covers an exact share of it, or one moved a little."""
    x, y, w, h = box
    kind = rng.integers(0, 4)
    if kind == 0:
        return box
    if kind == 1:  # overlap of exactly 0.5, 0.75 ...
        return [x, y, w * float(rng.choice([0.5, 0.75, 0.85])), h]
    return [v + float(rng.integers(-6, 7)) for v in box] if kind == 2 else [x + 40, y, w, h]


def bitmap(box: list[float]) -> np.ndarray:
    """Column-major pixels of the box inside the image."""
    x, y, w, h = (round(v) for v in box)
    pixels = np.zeros((SIDE, SIDE), np.uint8, order="F")
    pixels[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = 1
    return pixels


def segmentation(rng: np.random.Generator, box: list[float], *, crowd: bool) -> Any:
    """A polygon, two of them, or run lengths compressed or not."""
    x, y, w, h = box
    kind = int(rng.integers(0, 4)) if not crowd else int(rng.integers(2, 4))
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    if kind < 2:
        return [outline, [x, y, x + w / 2, y, x, y + h / 2]] if kind else [outline]
    rle = coco_mask.encode(bitmap(box))
    if kind == 2:
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    flat = bitmap(box).flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    return {"size": [SIDE, SIDE], "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def random_truth(rng: np.random.Generator) -> dict[str, Any]:
    """Images in any order, some empty; objects with crowds, ignore flags, and areas of their own."""
    images = [
        {"id": int(i), "file_name": f"{i}.jpg", "height": SIDE, "width": SIDE}
        for i in rng.permutation(int(rng.integers(1, 6)))
    ]
    objects: list[dict[str, Any]] = []
    for image in images:
        for _ in range(int(rng.choice([0, 1, 2, 5]))):
            box, crowd = random_box(rng), bool(rng.random() < 0.25)
            area = float(rng.choice(AREAS)) if rng.random() < 0.3 else box[2] * box[3]
            number = len(objects) + 1
            one: dict[str, Any] = {"id": number, "image_id": image["id"], "bbox": box, "area": area}
            one["category_id"] = int(rng.choice([3, 7, 12]))
            one["iscrowd"] = int(crowd)
            if rng.random() < 0.2:
                one["ignore"] = int(rng.integers(0, 2))
            objects.append({**one, "segmentation": segmentation(rng, box, crowd=crowd)})
    if all(one["iscrowd"] or one["category_id"] == 12 for one in objects):  # a file with nothing to find
        box = [0.0, 0.0, 32.0, 32.0]
        one = {"id": len(objects) + 1, "image_id": images[0]["id"], "category_id": 7, "bbox": box}
        outline = [[0, 0, 32, 0, 32, 32, 0, 32]]
        objects.append({**one, "area": 1024.0, "iscrowd": 0, "segmentation": outline})
    categories = [{"id": i, "name": name} for name, i in CATEGORIES.items()]
    order = rng.permutation(len(objects))
    return {"images": images, "categories": categories, "annotations": [objects[i] for i in order]}


def random_results(rng: np.random.Generator, truth: dict[str, Any]) -> dict[int | str, Detections]:
    """Hits, near misses, repeats and false alarms with tied scores; empty masks; images without an entry."""
    found: dict[int | str, Detections] = {}
    for image in truth["images"]:
        if rng.random() < 0.15:
            continue
        own = [a["bbox"] for a in truth["annotations"] if a["image_id"] == image["id"]]
        boxes = [near(rng, box) for box in own for _ in range(int(rng.integers(0, 4)))]
        boxes += [random_box(rng) for _ in range(int(rng.integers(0, 4)))]
        xywh = np.array(boxes, np.float64).reshape(-1, 4)
        scores = rng.choice(SCORES, len(xywh)) if rng.random() < 0.7 else rng.random(len(xywh))
        found[image["id"]] = Detections(
            boxes=torch.from_numpy(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)),
            scores=torch.from_numpy(scores),
            labels=torch.from_numpy(rng.integers(0, len(NAMES), len(xywh))),
            masks=[coco_mask.encode(bitmap(box)) for box in boxes],
        )
    return found


def plain_records(results: dict[int | str, Detections], metric: str) -> list[dict[str, Any]]:
    """The results file that a user of pycocotools would write: class by class, image by image."""
    records = []
    for image_id, one in results.items():
        for i in np.argsort(one.labels.numpy(), kind="stable").tolist():
            record: dict[str, Any] = {"image_id": image_id, "score": float(one.scores[i])}
            record["category_id"] = CATEGORIES[NAMES[int(one.labels[i])]]
            x1, y1, x2, y2 = (float(v) for v in one.boxes[i])
            shape = (
                {"segmentation": one.masks[i]} if metric == "segm" else {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            )
            records.append({**record, **shape})
    return records


def plain_pycocotools(path: Path, results: Any, metric: str, caps: tuple[int, ...]) -> dict[str, Any] | None:
    """Tables of pycocotools with nothing of ours around it; None where it cannot run (no detections)."""
    records = plain_records(results, metric)
    if not records:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        run = COCOeval(truth, truth.loadRes(records), "segm" if metric == "segm" else "bbox")
        run.params.maxDets = list(caps)
        run.params.catIds = [CATEGORIES[name] for name in NAMES]
        run.params.useCats = int(metric != "proposal")
        run.evaluate()
        run.accumulate()
    return run.eval


def compare(seed: int, folder: Path) -> None:
    """One case: both evaluators through the door, and pycocotools by itself."""
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    results = random_results(rng, truth)
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    caps = CAPS[seed % len(CAPS)]
    metrics = ("bbox", "segm", "proposal")
    ours, theirs = (
        coco_report(path, NAMES, results, metrics=metrics, evaluator=name, proposal_nums=caps).tables
        for name in EVALUATORS
    )
    for metric in metrics:
        plain = plain_pycocotools(path, results, metric, caps)
        for key in ("precision", "recall"):
            a, b = getattr(ours[metric], key), getattr(theirs[metric], key)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12, err_msg=f"case {seed} {metric} {key}")
            if plain is not None:
                label = f"case {seed} {metric} {key}: ours against pycocotools by itself"
                np.testing.assert_allclose(a, plain[key], rtol=0, atol=1e-12, err_msg=label)


def compare_lvis(seed: int, folder: Path) -> None:
    """The same case as LVIS data, by both evaluators."""
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    results = random_results(rng, truth)
    for image in truth["images"]:
        own = {a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = [c for c in (3, 7, 12) if c not in own and rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [c for c in sorted(own) if rng.random() < 0.3]
    for category, frequency in zip(truth["categories"], "rcf", strict=True):
        category["frequency"] = frequency
    path = folder / "lvis.json"
    path.write_text(json.dumps(truth))
    ours, theirs = (
        lvis_report(path, NAMES, results, metrics=("bbox", "segm"), evaluator=name) for name in EVALUATORS
    )
    for metric in ("bbox", "segm"):
        for key in ("precision", "recall"):
            a, b = (getattr(report.tables[metric], key) for report in (ours, theirs))
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12, err_msg=f"case {seed} LVIS {metric} {key}")


@pytest.mark.slow
@pytest.mark.parametrize("group", range(-(-CASES // GROUP)))
def test_both_evaluators_and_pycocotools_by_itself_agree(group: int, tmp_path: Path) -> None:
    for seed in range(group * GROUP, min((group + 1) * GROUP, CASES)):
        compare(seed, tmp_path)
        compare_lvis(seed, tmp_path)


def test_the_cases_hold_what_they_are_for() -> None:
    """Crowds, ignore flags, ties, empty images, images without an entry, areas at the limits, empty masks."""
    seen = dict.fromkeys(("crowd", "ignore", "tie", "empty", "no entry", "limit", "no pixel"), 0)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = random_truth(rng)
        results = random_results(rng, truth)
        objects, found = truth["annotations"], list(results.values())
        seen["crowd"] += any(a["iscrowd"] for a in objects)
        seen["ignore"] += any(a.get("ignore") for a in objects)
        seen["tie"] += any(len(d) > len(set(d.scores.tolist())) for d in found)
        seen["empty"] += len({a["image_id"] for a in objects}) < len(truth["images"])
        seen["no entry"] += len(results) < len(truth["images"])
        seen["limit"] += any(a["area"] in (1024.0, 9216.0) for a in objects)
        seen["no pixel"] += any(coco_mask.area(d.masks).min() == 0 for d in found if d.masks)
    assert min(seen.values()) > 5, seen
