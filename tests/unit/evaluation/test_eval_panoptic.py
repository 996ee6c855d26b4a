"""Panoptic quality: hand-computed values, and equality of the two evaluators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.errors import ConfigError, DatasetError
from detector.evaluation.panoptic import EVALUATORS, evaluate_panoptic

CLASSES = ("person", "car", "sky")  # labels 0, 1, 2; nothing is 3
CATEGORY_IDS = {"car": 3, "person": 1, "sky": 90}
SIZE = (20, 30)
NOTHING = len(CLASSES)


def write_truth(
    folder: Path, images: dict[int, tuple[np.ndarray, dict[int, str], set[int]]], **parts: Any
) -> Path:
    """A panoptic file: per image a map of segment ids, the class of each id, and the crowds among them."""
    (folder / "truth").mkdir()
    annotations = []
    for image_id, (pixels, names, crowds) in images.items():
        colours = np.stack([pixels // 65536, pixels // 256 % 256, pixels % 256], -1)
        cv2.imwrite(str(folder / "truth" / f"{image_id}.png"), colours.astype(np.uint8))
        segments = [
            {
                "id": i,
                "category_id": CATEGORY_IDS[name],
                "iscrowd": int(i in crowds),
                "area": int((pixels == i).sum()),
            }
            for i, name in names.items()
        ]
        annotations.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in images],
        "categories": [{"id": i, "name": n, "isthing": int(n != "sky")} for n, i in CATEGORY_IDS.items()],
        "annotations": annotations,
        **parts,
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def painted(*parts: tuple[int, int, int], rest: int) -> np.ndarray:
    """A map with columns [first, last) of a value each."""
    pixels = np.full(SIZE, rest, np.int64)
    for first, last, value in parts:
        pixels[:, first:last] = value
    return pixels


TWO = {5: (painted((0, 10, 700), (10, 15, 1), rest=70000), {700: "person", 1: "car", 70000: "sky"}, set())}
PERFECT = {5: painted((0, 10, 1000), (10, 15, 2001), rest=2)}


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_perfect_map_scores_all(tmp_path, evaluator):
    found = evaluate_panoptic(
        write_truth(tmp_path, TWO), CLASSES, PERFECT, evaluator=evaluator, classwise=True
    )
    assert {v for k, v in found.items() if k != "PQ_copypaste"} == {100.0}
    assert len(found) == 9 + 1 + 9
    assert found["PQ_copypaste"] == " ".join(["100.000"] * 9)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_hand_computed_case(tmp_path, evaluator):
    """The person has IoU 8/10; the car is called a person (one missed, one false); the sky is whole."""
    maps = {5: painted((0, 8, 1000), (8, 10, NOTHING), (10, 15, 2000), rest=2)}
    found = evaluate_panoptic(write_truth(tmp_path, TWO), CLASSES, maps, evaluator=evaluator, classwise=True)
    person = 0.8 / 1.5
    assert found["PQ/person"] == pytest.approx(100 * person, abs=1e-3)
    assert (found["SQ/person"], found["RQ/car"], found["PQ_st"]) == (80.0, 0.0, 100.0)
    assert found["PQ"] == pytest.approx(100 * (person + 0 + 1) / 3)
    assert found["PQ_th"] == pytest.approx(100 * person / 2)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_void_and_crowds_excuse_what_lies_on_them(tmp_path, evaluator):
    truth = {5: (painted((0, 10, 7), (10, 20, 8), rest=0), {7: "person", 8: "person"}, {8})}
    maps = {5: painted((0, 10, 1000), (10, 20, 2000), (20, 30, 1), rest=NOTHING)}
    found = evaluate_panoptic(write_truth(tmp_path, truth), CLASSES, maps, evaluator=evaluator)
    assert (found["PQ"], found["PQ_th"], found["PQ_st"]) == (100.0, 100.0, -1.0)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_no_predictions_score_zero(tmp_path, evaluator):
    path = write_truth(tmp_path, TWO)
    nothing = {5: np.full(SIZE, NOTHING)}
    for maps in ({}, nothing):
        assert evaluate_panoptic(path, CLASSES, maps, evaluator=evaluator)["PQ"] == 0.0


def random_case(seed: int, folder: Path) -> tuple[Path, dict[int, np.ndarray]]:
    """Blocks of segments with void and crowds, and maps that keep, move, relabel or drop them."""
    rng = np.random.default_rng(seed)
    truth, maps = {}, {}
    for image_id in rng.permutation(4).tolist():
        pixels = np.kron(rng.integers(0, 7, (4, 5)), np.ones((5, 6), np.int64)) * 301
        ids = [i for i in np.unique(pixels).tolist() if i]
        names = {i: str(rng.choice(CLASSES)) for i in ids}
        truth[image_id] = (pixels, names, {i for i in ids if rng.random() < 0.15})
        moved = np.roll(pixels, rng.integers(-2, 3, 2), axis=(0, 1))
        found = np.full(SIZE, NOTHING)
        for number, i in enumerate(ids):
            label = CLASSES.index(names[i]) if rng.random() < 0.8 else int(rng.integers(0, 3))
            found[moved == i] = NOTHING if rng.random() < 0.1 else label + 1000 * number
        if rng.random() < 0.9:
            maps[image_id] = found
    return write_truth(folder, truth), maps


@pytest.mark.parametrize("seed", range(25))
def test_both_evaluators_agree_on_random_maps(tmp_path, seed):
    path, maps = random_case(seed, tmp_path)
    first, second = (evaluate_panoptic(path, CLASSES, maps, evaluator=e, classwise=True) for e in EVALUATORS)
    assert first.pop("PQ_copypaste") == second.pop("PQ_copypaste")
    assert first == pytest.approx(second, abs=1e-9)


@pytest.mark.parametrize(
    ("maps", "parts", "message"),
    [
        ({5: np.full((3, 3), 0)}, {}, "found size"),
        ({5: np.full(SIZE, 4)}, {}, "found label 4"),
        ({6: np.full(SIZE, 0)}, {}, "image 6"),
        ({}, {"annotations": []}, "--format-only"),
        ({}, {"annotations": [{"image_id": 5, "file_name": "5.png"}]}, "segments_info"),
        (
            {},
            {"annotations": [{"image_id": 5, "file_name": "gone.png", "segments_info": []}]},
            r"gone\.png: found no such file",
        ),
    ],
    ids=["size", "label", "image", "no truth", "not panoptic", "no PNG"],
)
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_what_cannot_be_scored_is_named(tmp_path, evaluator, maps, parts, message):
    with pytest.raises(DatasetError, match=message):
        evaluate_panoptic(write_truth(tmp_path, TWO, **parts), CLASSES, maps, evaluator=evaluator)


def test_an_unknown_evaluator_is_named(tmp_path):
    with pytest.raises(ConfigError, match="pycocotools"):
        evaluate_panoptic(write_truth(tmp_path, TWO), CLASSES, {}, evaluator="pycocotools")
