"""From views of an image back to the image: boxes and masks there and back, and what is made of several."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.errors import ConfigError
from detector.ops.merging import merge_masks, merge_proposals, merge_regions
from detector.structures.samples import ImageMeta
from detector.structures.views import boxes_from_view, boxes_to_view, flip_boxes, masks_from_view

DIRECTIONS = [None, "horizontal", "vertical", "diagonal"]
#: a view as large as the image, and one twice as large and mirrored
PLAIN = ImageMeta((20, 40), (20, 40), (32, 64))
MIRRORED = ImageMeta((20, 40), (40, 80), (64, 96), (2.0,) * 4, "horizontal")


@st.composite
def views(draw: st.DrawFn) -> ImageMeta:
    height, width = draw(st.integers(8, 400)), draw(st.integers(8, 400))
    x, y = draw(st.floats(0.25, 4)), draw(st.floats(0.25, 4))
    hw = (max(round(height * y), 1), max(round(width * x), 1))
    factor = (hw[1] / width, hw[0] / height) * 2
    return ImageMeta((height, width), hw, hw, factor, draw(st.sampled_from(DIRECTIONS)))


def boxes_of(meta: ImageMeta, count: int = 6) -> Tensor:
    """Boxes inside the original image."""
    height, width = meta.ori_hw
    corners = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(height * 1000 + width))
    low, high = corners.min(dim=0).values, corners.max(dim=0).values
    return torch.cat((low, high), dim=1) * torch.tensor([width, height, width, height])


@given(views())
@settings(max_examples=60, deadline=None)
def test_boxes_come_back_from_every_view(meta: ImageMeta) -> None:
    boxes = boxes_of(meta)
    seen = boxes_to_view(boxes, meta)
    assert (seen[:, :2] <= seen[:, 2:] + 1e-3).all()
    assert seen.min() > -1e-2
    assert (seen[:, 2] < meta.input_hw[1] + 1e-2).all()
    assert (seen[:, 3] < meta.input_hw[0] + 1e-2).all()
    torch.testing.assert_close(boxes_from_view(seen, meta), boxes, rtol=1e-4, atol=1e-2)


@given(views())
@settings(max_examples=30, deadline=None)
def test_mirroring_twice_changes_nothing_and_the_diagonal_is_both(meta: ImageMeta) -> None:
    boxes, hw = boxes_of(meta), meta.ori_hw
    twice = flip_boxes(flip_boxes(boxes, hw, meta.flip_direction), hw, meta.flip_direction)
    torch.testing.assert_close(twice, boxes, rtol=1e-5, atol=1e-3)
    both = flip_boxes(flip_boxes(boxes, hw, "horizontal"), hw, "vertical")
    torch.testing.assert_close(flip_boxes(boxes, hw, "diagonal"), both)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (None, [1, 2, 4, 6]),
        ("horizontal", [36, 2, 39, 6]),
        ("vertical", [1, 14, 4, 18]),
        ("diagonal", [36, 14, 39, 18]),
    ],
)
def test_a_box_in_an_image_of_20_by_40(direction: str | None, expected: list[float]) -> None:
    assert flip_boxes(torch.tensor([[1.0, 2, 4, 6]]), (20, 40), direction).tolist() == [expected]


def test_boxes_of_every_class_come_back() -> None:
    per_class = torch.tensor([[60.0, 8, 76, 24, 0, 0, 80, 40]])
    assert boxes_from_view(per_class, MIRRORED).tolist() == [[2, 4, 10, 12, 0, 0, 40, 20]]
    assert boxes_from_view(per_class[:0], MIRRORED).shape == (0, 8)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (None, [[1, 2], [3, 4]]),
        ("horizontal", [[2, 1], [4, 3]]),
        ("vertical", [[3, 4], [1, 2]]),
        ("diagonal", [[4, 3], [2, 1]]),
    ],
)
def test_masks_are_turned_back(direction: str | None, expected: list[list[float]]) -> None:
    meta = ImageMeta((4, 4), (4, 4), (4, 4), flip_direction=direction)
    assert masks_from_view(torch.tensor([[[1.0, 2], [3, 4]]]), meta).tolist() == [expected]


def test_an_unknown_direction_is_named() -> None:
    meta = ImageMeta((4, 4), (4, 4), (4, 4), flip_direction="sideways")
    with pytest.raises(ConfigError, match=r"'sideways'.*'diagonal'"):
        boxes_to_view(torch.zeros(1, 4), meta)


def test_proposals_of_two_views_compete() -> None:
    plain = torch.tensor([[2.0, 4, 10, 12, 0.5], [20, 4, 30, 14, 0.4]])
    # in the image: the first one again and surer, one of its own
    mirrored = torch.tensor([[60.0, 8, 76, 24, 0.9], [0, 0, 20, 20, 0.3]])
    found = merge_proposals([plain, mirrored], [PLAIN, MIRRORED], iou_threshold=0.7, max_num=10)
    expected = [[2, 4, 10, 12, 0.9], [20, 4, 30, 14, 0.4], [30, 0, 40, 10, 0.3]]
    torch.testing.assert_close(found, torch.tensor(expected))
    best = merge_proposals([plain, mirrored], [PLAIN, MIRRORED], iou_threshold=0.7, max_num=2)
    torch.testing.assert_close(best, torch.tensor(expected[:2]))


def test_no_proposals_stay_none() -> None:
    none = torch.zeros(0, 5)
    assert merge_proposals([none, none], [PLAIN, MIRRORED], iou_threshold=0.7, max_num=5).shape == (0, 5)


def test_regions_are_averaged_in_the_image() -> None:
    boxes = [torch.tensor([[2.0, 4, 10, 12]]), torch.tensor([[56.0, 8, 76, 24]])]
    scores = [torch.tensor([[0.6, 0.4]]), torch.tensor([[0.8, 0.2]])]
    found, probabilities = merge_regions(boxes, scores, [PLAIN, MIRRORED])
    assert found.tolist() == [[2, 4, 11, 12]]
    torch.testing.assert_close(probabilities, torch.tensor([[0.7, 0.3]]))


def test_masks_are_averaged_upright() -> None:
    masks = [torch.tensor([[[1.0, 0], [1, 0]]]), torch.tensor([[[0.5, 1], [0, 1]]])]
    assert merge_masks(masks, [PLAIN, MIRRORED]).tolist() == [[[1, 0.25], [1, 0]]]
