import math

import pytest
import torch

from detector.targets.coders.legacy_delta_xywh import LegacyDeltaXYWHBBoxCoder
from detector.targets.priors.legacy_anchors import LegacyAnchorGenerator, LegacySSDAnchorGenerator


def test_the_last_pixel_counts():
    coder = LegacyDeltaXYWHBBoxCoder(target_stds=(0.5, 0.5, 1.0, 1.0))
    got = coder.encode(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[5.0, 0, 24, 9]]))
    torch.testing.assert_close(got, torch.tensor([[2.0, 0, math.log(2), 0]]))


def test_decoding_adds_a_pixel():
    got = LegacyDeltaXYWHBBoxCoder().decode(torch.tensor([[10.0, 10, 19, 19]]), torch.zeros(1, 8))
    torch.testing.assert_close(got, torch.tensor([[9.5, 9.5, 19.5, 19.5] * 2]))


def test_clipping_to_the_last_pixel():
    got = LegacyDeltaXYWHBBoxCoder().decode(
        torch.tensor([[-5.0, -5, 200, 200]]), torch.zeros(1, 4), max_hw=(40, 60)
    )
    assert got.tolist() == [[0, 0, 59, 39]]


@pytest.mark.parametrize("width", [4, 12])
def test_no_boxes(width):
    assert LegacyDeltaXYWHBBoxCoder().decode(torch.zeros(0, 4), torch.zeros(0, width)).shape == (0, width)


def test_anchors_are_whole_pixels():
    anchors = LegacyAnchorGenerator(
        strides=[16], ratios=[1.0], scales=[1.0], base_sizes=[9], center_offset=0.5
    )
    found = anchors.grid_priors([(1, 2)], torch.device("cpu"))[0]
    assert found.tolist() == [[0, 0, 8, 8], [16, 0, 24, 8]]
    tall = LegacyAnchorGenerator(strides=[4], ratios=[0.5, 2.0], scales=[8.0], center_offset=0.5)
    assert tall.base_anchors[0].tolist() == [[-21, -9, 24, 12], [-9, -21, 12, 24]]


def test_ssd_anchors_are_centred_between_pixels():
    anchors = LegacySSDAnchorGenerator(
        strides=[8], ratios=[[2]], min_sizes=[21], max_sizes=[45], scale_major=False
    )
    # about (3.5, 3.5): sides 21 and sqrt(21 * 45) = 30.74, and 21 stretched by sqrt(2)
    assert anchors.base_anchors[0][:2].tolist() == [[-6, -6, 14, 14], [-11, -11, 18, 18]]
    assert anchors.base_anchors[0][2].tolist() == [-11, -3, 18, 10]
