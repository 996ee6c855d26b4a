"""Proposal recall against the reference's own figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detector.evaluation.recall import proposal_recalls

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics" / "voc_and_recall.json"


def test_the_references_recalls_are_met():
    recorded = json.loads(GOLDEN.read_text())
    truth = [np.array(a["bboxes"], float).reshape(-1, 4) for a in recorded["annotations"]]
    proposals = [
        np.concatenate([np.array(c, float).reshape(-1, 5) for c in d]) for d in recorded["detections"]
    ]
    found = proposal_recalls(truth, proposals, proposal_nums=(10, 100), iou_thrs=(0.5, 0.75))
    np.testing.assert_allclose(found, recorded["expected"]["recall_nums_10_100_iou_50_75"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "number", "expected"), [((0.9, 0.1), 1, 0.5), ((0.1, 0.9), 1, 0.0), ((0.9, 0.1), 2, 0.5)]
)
def test_only_the_best_scored_count_and_each_once(scores, number, expected):
    """Two equal objects, one proposal on them and one elsewhere."""
    truth = [np.array([[0, 0, 10, 10], [0, 0, 10, 10]], float)]
    proposals = [np.array([[0, 0, 10, 10, scores[0]], [50, 50, 60, 60, scores[1]]])]
    assert proposal_recalls(truth, proposals, proposal_nums=(number,)).tolist() == [[expected]]


def test_images_without_objects_or_proposals():
    empty = [np.zeros((0, 4)), np.ones((1, 4))]
    assert proposal_recalls(empty, [np.ones((1, 5)), np.zeros((0, 5))]).tolist() == [[0.0]] * 3
    assert proposal_recalls([], []).tolist() == [[0.0]] * 3
