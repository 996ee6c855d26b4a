"""Points, their coders and the assigners of the heads without anchor shapes."""

import pytest
import torch

from detector.targets.assigners.center_region import CenterRegionAssigner
from detector.targets.assigners.point import PointAssigner
from detector.targets.assigners.regress_range import assign_by_range, labels_of
from detector.targets.assigners.sim_ota import SimOTAAssigner
from detector.targets.assigners.task_aligned import TaskAlignedAssigner
from detector.targets.assigners.uniform import UniformAssigner
from detector.targets.coders.distance_point import DistancePointBBoxCoder
from detector.targets.coders.tblr import TBLRBBoxCoder
from detector.targets.priors.points import MlvlPointGenerator

CPU = torch.device("cpu")
NO_BOXES, NO_LABELS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
PRIORS = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]])


def test_points_lie_in_the_middle_of_cells_row_by_row():
    first, second = MlvlPointGenerator(strides=[8, (16, 32)]).grid_priors([(1, 2), (2, 1)], CPU)
    assert first.tolist() == [[4, 4], [12, 4]]
    assert second.tolist() == [[8, 16], [8, 48]]


def test_points_carry_their_strides_and_honour_the_offset():
    (found,) = MlvlPointGenerator(strides=[8], offset=0).grid_priors([(1, 2)], CPU, with_stride=True)
    assert found.tolist() == [[0, 0, 8, 8], [8, 0, 8, 8]]


def test_points_in_padding_are_flagged():
    (flags,) = MlvlPointGenerator(strides=[8]).valid_flags([(2, 3)], (8, 17), CPU)
    assert flags.tolist() == [True, True, True, False, False, False]
    (flags,) = MlvlPointGenerator(strides=[8]).valid_flags([(2, 3)], (9, 16), CPU)
    assert flags.tolist() == [True, True, False] * 2


@pytest.mark.parametrize(
    ("coder", "priors"),
    [
        (DistancePointBBoxCoder(), torch.tensor([[10.0, 20], [7, 9]])),
        (TBLRBBoxCoder(normalizer=4.0), torch.tensor([[0.0, 0, 20, 40], [4, 4, 10, 14]])),
        (TBLRBBoxCoder(normalizer=[1, 2, 3, 4]), torch.tensor([[0.0, 0, 20, 40], [4, 4, 10, 14]])),
    ],
)
def test_coders_invert_and_clip(coder, priors):
    boxes = torch.tensor([[2.0, 3, 30, 50], [-5, 1, 9, 12]])
    code = coder.encode(priors, boxes)
    torch.testing.assert_close(coder.decode(priors, code), boxes)
    clipped = coder.decode(priors, code, max_hw=(40, 25))
    torch.testing.assert_close(clipped, torch.tensor([[2.0, 3, 25, 40], [0, 1, 9, 12]]))
    assert coder.decode(priors[:0], code[:0]).shape == (0, 4)


def test_coders_know_their_order():
    box = torch.tensor([[8.0, 15, 13, 27]])
    assert DistancePointBBoxCoder().encode(torch.tensor([[10.0, 20]]), box).tolist() == [[2, 5, 3, 7]]
    limited = DistancePointBBoxCoder().encode(torch.tensor([[10.0, 20]]), box, max_dis=5)
    torch.testing.assert_close(limited, torch.tensor([[2.0, 4.9, 3, 4.9]]))
    prior = torch.tensor([[9.0, 18, 11, 22]])  # centre (10, 20), 2 wide, 4 high
    assert TBLRBBoxCoder(normalizer=1.0).encode(prior, box).tolist() == [[1.25, 1.75, 1, 1.5]]


def test_ranges_choose_the_level_and_size_breaks_ties():
    points = torch.tensor([[20.0, 20], [20, 20], [70, 70]])
    boxes = torch.tensor([[0.0, 0, 100, 100], [10, 10, 40, 40]])
    index, distances = assign_by_range(
        points, [1, 2], boxes, strides=[8, 16], ranges=[(-1, 64), (64, 1000)], radius=None
    )
    assert index.tolist() == [1, 0, 0]
    assert distances[2].tolist() == [70, 70, 30, 30]
    assert labels_of(torch.tensor([-1, 0]), torch.tensor([5, 6]), 9).tolist() == [9, 5]
    index, _ = assign_by_range(
        points, [1, 2], boxes, strides=[1, 16], ranges=[(-1, 64), (64, 1000)], radius=1.5
    )
    assert index.tolist() == [-1, -1, 0]


def test_core_is_positive_and_shadow_is_ignored_for_its_class_only():
    assigner = CenterRegionAssigner(pos_scale=0.2, neg_scale=0.8)
    boxes = torch.tensor([[0.0, 0, 16, 16]])
    centred = torch.tensor([[6.0, 6, 10, 10], [2, 6, 6, 10], [20, 20, 24, 24]])
    found, shadow = assigner.assign_shadowed(centred, boxes, torch.tensor([3]))
    assert found.gt_index.tolist() == [0, -1, -1]
    assert shadow[:, 0].tolist() == [False, True, False]
    assert assigner.assign(centred, boxes).gt_index.tolist() == [0, -1, -1]


def test_smaller_box_wins_the_core_and_crowds_hide_priors():
    assigner = CenterRegionAssigner(pos_scale=0.5, neg_scale=0.5)
    boxes = torch.tensor([[0.0, 0, 16, 16], [4, 4, 12, 12]])
    prior = torch.tensor([[7.0, 7, 9, 9]])
    found, shadow = assigner.assign_shadowed(prior, boxes, torch.tensor([0, 1]))
    assert found.gt_index.tolist() == [1]
    assert shadow.tolist() == [[True, False]]
    assert assigner.assign(prior, boxes, boxes[:1]).gt_index.tolist() == [-2]
    same, _ = assigner.assign_shadowed(prior, boxes, torch.tensor([1, 1]))
    assert same.gt_index.tolist() == [-1]
    dominant = CenterRegionAssigner(pos_scale=0.5, neg_scale=0.5, foreground_dominate=True)
    assert dominant.assign_shadowed(prior, boxes, torch.tensor([1, 1]))[0].gt_index.tolist() == [1]


def test_nearest_points_of_the_right_level():
    points = torch.tensor([[4.0, 4, 8, 8], [12, 4, 8, 8], [8, 8, 16, 16]])
    boxes = torch.tensor([[0.0, 0, 32, 32], [0, 0, 64, 64]])  # sides of 4 strides of 8 and 16
    assert PointAssigner(scale=4, pos_num=1).assign(points, boxes).gt_index.tolist() == [-1, 0, 1]
    assert PointAssigner(scale=4, pos_num=9).assign(points, boxes).gt_index.tolist() == [0, 0, 1]


def sim_ota(boxes, labels, decoded=PRIORS, scores=None):
    centres = torch.cat(((PRIORS[:, :2] + PRIORS[:, 2:]) / 2, torch.full((4, 2), 8.0)), dim=1)
    scores = torch.full((4, 2), 0.5) if scores is None else scores
    return SimOTAAssigner(center_radius=1.0).assign(scores, centres, decoded, boxes, labels)


def test_sim_ota_takes_as_many_priors_as_the_overlaps_add_up_to():
    box = torch.tensor([[0.0, 0, 8, 8]])
    one = sim_ota(box, torch.tensor([0]))
    assert one.gt_index.tolist() == [0, -1, -1, -1]
    torch.testing.assert_close(one.overlap, torch.tensor([1.0, 0, 0, 0]))
    wide = torch.tensor([[0.0, 0, 16, 16]])
    all_good = sim_ota(wide, torch.tensor([0]), decoded=wide.expand(4, 4))
    assert all_good.gt_index.tolist() == [0, 0, 0, 0]


def test_sim_ota_gives_a_contested_prior_to_the_cheaper_box():
    boxes = torch.tensor([[0.0, 0, 8, 8], [0.0, 0, 8, 8]])
    scores = torch.tensor([[0.1, 0.9]]).expand(4, 2)
    assert sim_ota(boxes, torch.tensor([0, 1]), scores=scores).gt_index[0] == 1


def test_task_alignment_needs_the_centre_inside_and_prefers_overlap():
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 16, 16]])
    scores = torch.full((4, 2), 0.5)
    found = TaskAlignedAssigner(topk=4).assign_aligned(
        scores, PRIORS, PRIORS, boxes, torch.tensor([0, 1]), alpha=1, beta=2
    )
    assert found.gt_index.tolist() == [0, 1, 1, 1]
    torch.testing.assert_close(found.overlap, torch.tensor([1.0, 0.25, 0.25, 0.25]))
    torch.testing.assert_close(found.metric, torch.tensor([0.5, 0.03125, 0.03125, 0.03125]))


def test_uniform_match_counts_both_kinds_of_nearness():
    boxes = torch.tensor([[0.0, 0, 8, 8]])
    decoded = PRIORS.flip(0)  # the prediction of the last prior is best
    match = UniformAssigner(pos_ignore_thr=0.5, neg_ignore_thr=0.7, match_times=1).assign_predicted(
        decoded, PRIORS, boxes
    )
    assert match.pair_rows.tolist() == [3, 0]
    assert match.pair_good.tolist() == [False, True]
    assert match.gt_index.tolist() == [0, -1, -1, -2]


@pytest.mark.parametrize("priors", [PRIORS, PRIORS[:0]], ids=["priors", "none"])
def test_nothing_to_assign_is_background(priors):
    scores = torch.zeros(len(priors), 2)
    found = [
        SimOTAAssigner().assign(scores, priors, priors, NO_BOXES, NO_LABELS),
        TaskAlignedAssigner(topk=9).assign_aligned(scores, priors, priors, NO_BOXES, NO_LABELS),
        UniformAssigner(pos_ignore_thr=0.1, neg_ignore_thr=0.7).assign_predicted(priors, priors, NO_BOXES),
        PointAssigner().assign(priors, NO_BOXES),
        CenterRegionAssigner(pos_scale=0.2, neg_scale=0.2).assign(priors, NO_BOXES),
    ]
    assert all(f.gt_index.tolist() == [-1] * len(priors) for f in found)
