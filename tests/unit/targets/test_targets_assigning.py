import pytest
import torch

from detector.targets.assigners.assignment import BACKGROUND, IGNORE, Assignment
from detector.targets.assigners.max_iou import MaxIoUAssigner
from detector.targets.samplers.pseudo import PseudoSampler
from detector.targets.samplers.random import RandomSampler

RPN = MaxIoUAssigner(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3)
GT = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])


def column(*widths):
    return torch.tensor([[0.0, 0, 10, h] for h in widths])


def test_thresholds_by_hand():
    got = RPN.assign(column(9.0, 5.0, 2.0), GT[:1])
    assert got.gt_index.tolist() == [0, IGNORE, BACKGROUND]
    torch.testing.assert_close(got.overlap, torch.tensor([0.9, 0.5, 0.2]))


def test_best_prior_counts_below_the_threshold():
    assert RPN.assign(column(4.0, 2.0), GT[:1]).gt_index.tolist() == [0, BACKGROUND]
    assert RPN.assign(column(2.0, 1.0), GT[:1]).gt_index.tolist() == [BACKGROUND, BACKGROUND]


def test_all_ties_count_unless_told_otherwise():
    priors = column(4.0, 4.0)
    assert RPN.assign(priors, GT[:1]).gt_index.tolist() == [0, 0]
    first = MaxIoUAssigner(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, gt_max_assign_all=False)
    assert first.assign(priors, GT[:1]).gt_index.tolist() == [0, IGNORE]


def test_competing_boxes_the_last_wins():
    twins = torch.cat((GT[:1], GT[:1]))
    assert RPN.assign(column(9.0), twins).gt_index.tolist() == [1]


def test_priors_in_crowds_are_ignored():
    assigner = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5, ignore_iof_thr=0.5, match_low_quality=False)
    got = assigner.assign(
        torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]), GT[1:], torch.tensor([[48.0, 48, 70, 70]])
    )
    assert got.gt_index.tolist() == [BACKGROUND, IGNORE]


@pytest.mark.parametrize("low_quality", [True, False])
def test_no_ground_truth_is_all_background(low_quality):
    assigner = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5, match_low_quality=low_quality)
    assert assigner.assign(column(1.0, 2.0), torch.zeros(0, 4)).gt_index.tolist() == [BACKGROUND] * 2
    assert assigner.assign(torch.zeros(0, 4), GT).gt_index.tolist() == []


def many(num_pos, num_neg, num_ignore=0):
    index = torch.tensor([0] * num_pos + [BACKGROUND] * num_neg + [IGNORE] * num_ignore)
    boxes = torch.arange(len(index) * 4, dtype=torch.float32).reshape(-1, 4)
    return Assignment(gt_index=index, overlap=torch.zeros(len(index))), boxes


@pytest.mark.parametrize(
    ("num_pos", "num_neg", "ratio", "wanted"),
    [
        (100, 100, -1, (16, 48)),
        (3, 100, -1, (3, 61)),
        (3, 100, 5, (3, 15)),
        (0, 100, 5, (0, 5)),
        (100, 10, -1, (16, 10)),
    ],
)
def test_random_counts(num_pos, num_neg, ratio, wanted):
    sampler = RandomSampler(num=64, pos_fraction=0.25, neg_pos_ub=ratio, add_gt_as_proposals=False)
    assignment, boxes = many(num_pos, num_neg, 5)
    got = sampler.sample(assignment, boxes, GT, torch.tensor([7, 8]))
    assert (len(got.pos_index), len(got.neg_index)) == wanted
    assert len(got.boxes.unique(dim=0)) == sum(wanted)


def test_random_follows_the_global_cpu_generator():
    sampler = RandomSampler(num=20, pos_fraction=0.5, add_gt_as_proposals=False)
    assignment, boxes = many(50, 50)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(sampler.sample(assignment, boxes, GT).neg_index.tolist())
    assert draws[0] == draws[1] != sampler.sample(assignment, boxes, GT).neg_index.tolist()


def test_ground_truth_is_added_in_front():
    assignment, boxes = many(0, 4)
    got = RandomSampler(num=8, pos_fraction=0.5).sample(assignment, boxes, GT, torch.tensor([7, 8]))
    torch.testing.assert_close(got.pos_boxes, GT)
    assert got.pos_gt_labels.tolist() == [7, 8]
    assert got.neg_index.tolist() == [2, 3, 4, 5]


def test_pseudo_takes_all_but_ignored():
    assignment, boxes = many(2, 3, 4)
    got = PseudoSampler().sample(assignment, boxes, GT)
    assert (got.pos_index.tolist(), got.neg_index.tolist()) == ([0, 1], [2, 3, 4])


def test_permuting_ground_truth_permutes_the_assignment():
    priors = torch.tensor([[0.0, 0, 10, 9], [20, 20, 30, 29], [50, 50, 60, 60]])
    a, b = RPN.assign(priors, GT).gt_index, RPN.assign(priors, GT.flip(0)).gt_index
    assert a.tolist() == [0, 1, BACKGROUND]
    assert b.tolist() == [1, 0, BACKGROUND]
