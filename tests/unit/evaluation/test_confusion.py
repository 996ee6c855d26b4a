from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.evaluation.confusion import confusion_csv, confusion_matrix
from detector.evaluation.overlaps import overlaps

A, B, C = [0.0, 0, 10, 10], [20.0, 20, 30, 30], [50.0, 50, 60, 60]


def image(truth: list[tuple[list[float], int]], found: list[tuple[list[float], int, float]]) -> Any:
    return (
        np.array([box for box, _ in truth], np.float32).reshape(-1, 4),
        np.array([label for _, label in truth]),
        np.array([box for box, *_ in found], np.float32).reshape(-1, 4),
        np.array([label for _, label, _ in found]), np.array([score for *_, score in found]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("truth", "found", "cells"),
    [
        ([(A, 0)], [(A, 0, 0.9)], {(0, 0): 1}),
        ([(A, 0)], [(A, 1, 0.9)], {(0, 1): 1, (0, 2): 1}),
        ([(A, 0)], [(A, 0, 0.2)], {(0, 2): 1}),
        ([(A, 0)], [(B, 1, 0.9)], {(0, 2): 1, (2, 1): 1}),
        ([], [(C, 0, 0.3)], {(2, 0): 1}),
        ([(B, 1)], [], {(1, 2): 1}),
        ([(A, 0)], [(A, 0, 0.9), (A, 0, 0.8)], {(0, 0): 2}),
        ([], [], {}),
    ],
    ids=["right", "other class", "low score", "beside", "no object", "missed", "twice", "nothing"],
)
def test_cells(truth: Any, found: Any, cells: dict[tuple[int, int], int]) -> None:
    expected = np.zeros((3, 3), np.int64)
    for place, count in cells.items():
        expected[place] = count
    assert confusion_matrix([image(truth, found)], 2).tolist() == expected.tolist()


def by_hand(images: list[Any], count: int) -> NDArray[Any]:
    """The same counts, one pair after the other."""
    matrix = np.zeros((count + 1, count + 1), np.int64)
    for truth, truth_labels, boxes, labels, scores in images:
        shares = overlaps(boxes, truth)
        found = [0] * len(truth)
        for i, label in enumerate(labels):
            if scores[i] < 0.3:
                continue
            matched = 0
            for j, own in enumerate(truth_labels):
                if shares[i, j] >= 0.5:
                    matched += 1
                    found[j] += own == label
                    matrix[own, label] += 1
            matrix[count, label] += matched == 0
        for j, own in enumerate(truth_labels):
            matrix[own, count] += found[j] == 0
    return matrix


corner, label = st.integers(0, 12), st.integers(0, 2)
box = st.tuples(corner, corner).map(lambda at: [float(at[0]), float(at[1]), at[0] + 8.0, at[1] + 8.0])
score = st.sampled_from([0.1, 0.3, 0.7])
images = st.builds(
    image, st.lists(st.tuples(box, label), max_size=5), st.lists(st.tuples(box, label, score), max_size=6)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(images, max_size=3))
def test_counts_are_those_of_pairs_looked_at_one_by_one(found: list[Any]) -> None:
    assert confusion_matrix(found, 3).tolist() == by_hand(found, 3).tolist()


def test_csv_names_rows_and_columns() -> None:
    text = confusion_csv(np.array([[1, 2], [3, 0]]), ["car"])
    assert text == "truth,car,background\ncar,1,2\nbackground,3,0\n"
