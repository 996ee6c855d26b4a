import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.ops.iou import aligned_giou, aligned_iou, pairwise_iof, pairwise_iou


def boxes_strategy():
    side = st.floats(0.1, 50)
    corner = st.floats(-20, 60)
    return st.lists(st.tuples(corner, corner, side, side), min_size=1, max_size=6).map(
        lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)
    )


def test_half_overlap_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10]])
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor([[1 / 3, 0.0, 1.0]]))
    torch.testing.assert_close(pairwise_iof(a, b), torch.tensor([[0.5, 0.0, 1.0]]))


def test_giou_of_distant_boxes_by_hand():
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    torch.testing.assert_close(aligned_giou(a, b), torch.tensor([-1 / 3]))


@settings(max_examples=30, deadline=None)
@given(boxes_strategy(), boxes_strategy())
def test_symmetric_and_in_range(a, b):
    iou = pairwise_iou(a, b)
    torch.testing.assert_close(iou, pairwise_iou(b, a).T)
    assert bool(((iou >= 0) & (iou <= 1 + 1e-6)).all())
    torch.testing.assert_close(aligned_iou(a, a), torch.ones(len(a)))


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_empty(n, m):
    assert pairwise_iou(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)
