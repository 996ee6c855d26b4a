"""Matrix suppression of masks."""

from __future__ import annotations

import math

import pytest
import torch

from detector.ops.matrix_nms import matrix_nms


def masks() -> torch.Tensor:
    """Two equal masks of four pixels and a distant one."""
    values = torch.zeros(3, 4, 4, dtype=torch.bool)
    values[:2, :2, :2] = True
    values[2, 2:, 2:] = True
    return values


def test_a_double_loses_its_score() -> None:
    rows, scores = matrix_nms(masks(), torch.tensor([0, 0, 0]), torch.tensor([0.5, 0.8, 0.6]), sigma=2.0)
    assert rows.tolist() == [1, 2, 0]
    assert scores.tolist() == pytest.approx([0.8, 0.6, 0.5 * math.exp(-2)])


def test_other_classes_do_not_count() -> None:
    rows, scores = matrix_nms(
        masks(), torch.tensor([0, 1, 0]), torch.tensor([0.5, 0.8, 0.6]), kernel="linear"
    )
    assert rows.tolist() == [1, 2, 0]
    assert scores.tolist() == pytest.approx([0.8, 0.6, 0.5])


def test_limits() -> None:
    labels, scores = torch.zeros(3, dtype=torch.long), torch.tensor([0.5, 0.8, 0.6])
    assert matrix_nms(masks(), labels, scores, filter_thr=0.3)[0].tolist() == [1, 2]
    assert matrix_nms(masks(), labels, scores, max_num=1)[0].tolist() == [1]
    assert matrix_nms(masks(), labels, scores, nms_pre=1)[0].tolist() == [1]
    assert len(matrix_nms(masks()[:0], labels[:0], scores[:0])[0]) == 0
    with pytest.raises(ValueError, match="unknown kernel"):
        matrix_nms(masks(), labels, scores, kernel="cubic")
