"""Anchors, coder and assigner of YOLOv3, and the default boxes of SSD."""

from __future__ import annotations

import math

import pytest
import torch

from detector.errors import ConfigError
from detector.targets.assigners.assignment import BACKGROUND, IGNORE
from detector.targets.assigners.grid import GridAssigner
from detector.targets.coders.yolo import YOLOBBoxCoder
from detector.targets.priors.ssd_anchors import SSDAnchorGenerator, sizes_of_range
from detector.targets.priors.yolo_anchors import YOLOAnchorGenerator

NO_BOXES = torch.zeros(0, 4)


def yolo_anchors() -> YOLOAnchorGenerator:
    return YOLOAnchorGenerator(strides=[16, 8], base_sizes=[[(20, 10)], [(4, 6)]])


def test_yolo_anchors_sit_in_the_middle_of_their_cells() -> None:
    coarse, fine = yolo_anchors().grid_priors([(1, 2), (2, 4)], torch.device("cpu"))
    assert coarse.tolist() == [[-2, 3, 18, 13], [14, 3, 34, 13]]
    assert fine[0].tolist() == [2, 1, 6, 7]
    assert fine.shape == (8, 4)


def test_a_cell_is_responsible_for_the_centres_it_holds() -> None:
    boxes = torch.tensor([[16.0, 0, 20, 4], [30, 14, 34, 18]])  # the second centre lies on the last corner
    coarse, fine = yolo_anchors().responsible_flags([(1, 2), (2, 4)], boxes)
    assert coarse.tolist() == [False, True]
    assert fine.nonzero().flatten().tolist() == [2, 7]
    assert not any(flags.any() for flags in yolo_anchors().responsible_flags([(1, 2), (2, 4)], NO_BOXES))


def test_yolo_anchors_want_equally_many_sizes_per_level() -> None:
    with pytest.raises(ConfigError, match="equally many"):
        YOLOAnchorGenerator(strides=[16, 8], base_sizes=[[(1, 1)], [(1, 1), (2, 2)]])


def test_yolo_coder_by_hand_and_back() -> None:
    coder, strides = YOLOBBoxCoder(), torch.tensor([8.0])
    anchor, box = torch.tensor([[2.0, 1, 6, 7]]), torch.tensor([[2.0, 2, 10, 8]])
    codes = coder.encode(anchor, box, strides)
    assert codes[0].tolist() == pytest.approx([0.75, 0.625, math.log(2), 0.0])
    torch.testing.assert_close(coder.decode(anchor, codes, strides), box)
    assert coder.encode(NO_BOXES, NO_BOXES, torch.zeros(0)).shape == (0, 4)


def test_yolo_coder_keeps_centres_inside_the_cell() -> None:
    codes = YOLOBBoxCoder().encode(
        torch.tensor([[2.0, 1, 6, 7]]), torch.tensor([[40.0, 1, 44, 7]]), torch.tensor([8.0])
    )
    assert codes[0, 0].item() == pytest.approx(1 - 1e-6)


def test_grid_assigner_takes_responsible_anchors_only() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 4, 10], [50, 50, 60, 60]])
    responsible = torch.tensor([True, False, True, True])
    found = GridAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5).assign(
        anchors, responsible, torch.tensor([[0.0, 0, 10, 10]])
    )
    # the second overlaps by 0.9 without being responsible: neither positive nor background
    assert found.gt_index.tolist() == [0, IGNORE, BACKGROUND, BACKGROUND]


def test_grid_assigner_gives_each_box_its_best_anchor() -> None:
    anchors = torch.tensor([[0.0, 0, 4, 10], [0, 0, 3, 10], [20, 20, 30, 30]])
    found = GridAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5).assign(
        anchors, torch.tensor([True, True, False]), torch.tensor([[0.0, 0, 10, 10]])
    )
    assert found.gt_index.tolist() == [0, BACKGROUND, BACKGROUND]


def test_grid_assigner_without_boxes_is_background() -> None:
    found = GridAssigner(pos_iou_thr=0.5, neg_iou_thr=(0.1, 0.5)).assign(
        torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([False]), NO_BOXES
    )
    assert found.gt_index.tolist() == [BACKGROUND]


def test_default_boxes_of_ssd300() -> None:
    low, high = sizes_of_range(300, (0.15, 0.9), 6)
    assert low == [21, 45, 99, 153, 207, 261]
    assert high == [45, 99, 153, 207, 261, 315]


def test_square_boxes_come_first() -> None:
    anchors = SSDAnchorGenerator(
        strides=[8], ratios=[[2]], min_sizes=[4], max_sizes=[16], scale_major=False
    ).base_anchors[0]
    sizes = (anchors[:, 2:] - anchors[:, :2]).tolist()
    wide, tall = 4 * math.sqrt(2), 4 / math.sqrt(2)
    expected = [[4, 4], [8, 8], [wide, tall], [tall, wide]]
    for own, wanted in zip(sizes, expected, strict=True):
        assert own == pytest.approx(wanted)
    assert ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist() == [[4, 4]] * 4


@pytest.mark.parametrize(
    "settings", [{"input_size": 400}, {"basesize_ratio_range": (0.3, 0.9)}, {"min_sizes": [1, 2, 3]}]
)
def test_default_boxes_refuse_what_they_do_not_know(settings: dict) -> None:
    with pytest.raises(ConfigError, match="SSDAnchorGenerator"):
        SSDAnchorGenerator(strides=[8, 16, 32], ratios=[[2]] * 3, **settings)
