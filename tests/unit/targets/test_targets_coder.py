import math

import pytest
import torch

from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder

PRIORS = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 30], [100, 50, 180, 90]])
BOXES = torch.tensor([[1.0, 2, 14, 19], [5, 6, 8, 20], [90, 40, 200, 95]])


def test_encode_by_hand():
    got = DeltaXYWHBBoxCoder().encode(torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 25, 20]]))
    torch.testing.assert_close(got, torch.tensor([[1.0, 0.0, math.log(2), 0.0]]))


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)])
def test_decode_undoes_encode(stds):
    coder = DeltaXYWHBBoxCoder(target_means=(0.1, 0.0, -0.1, 0.0), target_stds=stds)
    torch.testing.assert_close(coder.decode(PRIORS, coder.encode(PRIORS, BOXES)), BOXES, rtol=1e-4, atol=1e-3)


def test_classes_decode_one_by_one():
    coder, deltas = DeltaXYWHBBoxCoder(), torch.randn(3, 8)
    got = coder.decode(PRIORS, deltas, max_hw=(60, 150))
    torch.testing.assert_close(got[:, 4:], coder.decode(PRIORS, deltas[:, 4:], max_hw=(60, 150)))
    assert got[:, 0::2].max() <= 150
    assert got[:, 1::2].max() <= 60
    assert got.min() >= 0


def test_sizes_change_by_a_bounded_factor():
    got = DeltaXYWHBBoxCoder(clip_border=False).decode(PRIORS[:1], torch.tensor([[0.0, 0, 50, -50]]))
    assert (got[0, 2] - got[0, 0]).item() == pytest.approx(10 * 62.5, rel=1e-4)
    assert (got[0, 3] - got[0, 1]).item() == pytest.approx(20 * 0.016, rel=1e-3)


@pytest.mark.parametrize("width", [4, 12])
def test_nothing(width):
    assert DeltaXYWHBBoxCoder().decode(torch.zeros(0, 4), torch.zeros(0, width)).shape == (0, width)
