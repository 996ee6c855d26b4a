"""Samplers that balance or mine: numbers, order, seeds, too few candidates, no objects."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.targets.assigners.assignment import BACKGROUND, Assignment
from detector.targets.samplers.combined import (
    CombinedSampler,
    InstanceBalancedPosSampler,
    IoUBalancedNegSampler,
    OverlapBins,
    PartSpec,
    choose_per_object,
)
from detector.targets.samplers.ohem import OHEMSampler
from detector.targets.samplers.sampling import JudgingSampler
from detector.targets.samplers.score_hlr import ScoreHLRSampler, hierarchical_rank, nms_groups


class Judge:
    """Losses and scores grow with the left edge of a region; predicted boxes are the regions."""

    num_classes = 3

    def losses(self, boxes: Tensor, labels: Tensor) -> Tensor:
        self.labels = labels
        return boxes[:, 0]

    def predictions(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return boxes[:, 0] / 100, boxes


def candidates(positive: int = 6, negative: int = 20) -> tuple[Assignment, Tensor, Tensor, Tensor]:
    """Regions side by side: the first ``positive`` belong to two objects in turn."""
    count = positive + negative
    left = torch.arange(count) * 3.0
    boxes = torch.stack((left, left * 0, left + 2, left * 0 + 2), dim=1)
    index = torch.full((count,), BACKGROUND)
    index[:positive] = torch.arange(positive) % 2
    gt = torch.tensor([[0.0, 0, 2, 2], [3, 0, 5, 2]])
    return Assignment(index, torch.linspace(0.9, 0, count)), boxes, gt, torch.tensor([2, 1])


def test_positives_are_shared_between_objects() -> None:
    index = torch.tensor([0] * 90 + [1] * 5)
    torch.manual_seed(0)
    chosen = choose_per_object(torch.arange(95), index, 20)
    # a share of 11 each, 5 are there, the rest is filled up
    assert len(chosen) == 20
    assert (chosen >= 90).sum() == 5
    assert torch.equal(chosen, chosen.unique())
    assert choose_per_object(torch.arange(5), index, 20).tolist() == [0, 1, 2, 3, 4]


def test_negatives_are_spread_over_overlaps() -> None:
    overlap = torch.cat((torch.full((300,), 0.05), torch.full((30,), 0.15), torch.full((30,), 0.25)))
    overlap[-1] = 0.3
    torch.manual_seed(0)
    chosen = OverlapBins().choose(torch.arange(360), overlap, 30)
    thirds = torch.bincount((overlap[chosen] * 9.999).long(), minlength=3)
    # ten from each third; the largest overlap itself belongs to no interval
    assert len(chosen) == 30
    assert thirds.tolist() == [10, 10, 10]


def test_easy_negatives_get_their_share() -> None:
    overlap = torch.cat((torch.zeros(50), torch.full((50,), 0.3)))
    bins = OverlapBins(floor_thr=0.1, floor_fraction=0.25, num_bins=1)
    chosen = bins.choose(torch.arange(100), overlap, 20)
    assert ((chosen < 50).sum().item(), len(chosen)) == (5, 20)
    assert OverlapBins(floor_thr=0).choose(torch.arange(3), overlap, 20).tolist() == [0, 1, 2]


def test_combined_sampler_follows_the_seed_and_its_sizes() -> None:
    sampler = CombinedSampler(
        num=12,
        pos_fraction=0.25,
        pos_sampler=PartSpec("InstanceBalancedPosSampler"),
        neg_sampler=PartSpec("IoUBalancedNegSampler"),
    )
    torch.manual_seed(1)
    first = sampler.sample(*candidates())
    torch.manual_seed(1)
    again = sampler.sample(*candidates())
    assert (len(first.pos_index), len(first.neg_index)) == (3, 9)
    assert torch.equal(first.boxes, again.boxes)
    assert first.pos_gt_labels is not None
    empty = sampler.sample(
        Assignment(torch.full((4,), BACKGROUND), torch.zeros(4)), torch.rand(4, 4), torch.zeros(0, 4)
    )
    assert (len(empty.pos_index), len(empty.neg_index)) == (0, 4)


@pytest.mark.parametrize("kind", [InstanceBalancedPosSampler, IoUBalancedNegSampler])
def test_halves_work_alone(kind: type) -> None:
    found = kind(num=10, pos_fraction=0.3, neg_pos_ub=2).sample(*candidates())
    assert (len(found.pos_index), len(found.neg_index)) == (3, 6)


def test_wrong_parts_are_refused() -> None:
    half = PartSpec("InstanceBalancedPosSampler")
    with pytest.raises(ConfigError, match="neg_sampler is 'InstanceBalancedPosSampler'"):
        CombinedSampler(num=4, pos_fraction=0.5, pos_sampler=half, neg_sampler=half)
    with pytest.raises(ConfigError, match="num_bins=0"):
        IoUBalancedNegSampler(num=4, pos_fraction=0.5, num_bins=0)
    with pytest.raises(ConfigError, match=r"floor_thr=-0\.5"):
        IoUBalancedNegSampler(num=4, pos_fraction=0.5, floor_thr=-0.5)


def test_hard_examples_are_those_with_the_largest_losses() -> None:
    sampler, judge = OHEMSampler(num=6, pos_fraction=0.5, add_gt_as_proposals=False), Judge()
    assert isinstance(sampler, JudgingSampler)
    found = sampler.sample_judged(*candidates(), judge)
    assert found.pos_index.tolist() == [3, 4, 5]
    assert found.neg_index.tolist() == [23, 24, 25]
    assert judge.labels.unique().tolist() == [3]  # background
    few = sampler.sample_judged(*candidates(1, 2), judge)
    assert (few.pos_index.tolist(), few.neg_index.tolist()) == ([0], [1, 2])
    with pytest.raises(ConfigError, match="loss_key"):
        OHEMSampler(num=6, pos_fraction=0.5, loss_key="loss_bbox")


def test_groups_and_ranks() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]])
    scores = torch.tensor([0.5, 0.9, 0.8])
    groups = nms_groups(boxes, scores, 0.5)
    assert [g.tolist() for g in groups] == [[1, 0], [2]]
    # first of their groups before the second one, by score
    assert hierarchical_rank(scores, groups).tolist() == [2, 0, 1]
    assert nms_groups(boxes[:0], scores[:0], 0.5) == []


def test_ranked_negatives_keep_the_sum_of_their_losses() -> None:
    sampler = ScoreHLRSampler(num=8, pos_fraction=0.5, add_gt_as_proposals=False)
    found = sampler.sample_judged(*candidates(2, 20), Judge())
    assert (len(found.pos_index), len(found.neg_index)) == (2, 6)
    # no overlap: rank by score, which grows with the position
    assert found.neg_index.tolist() == [21, 20, 19, 18, 17, 16]
    weights = found.neg_label_weights
    assert weights is not None
    losses = found.neg_boxes[:, 0]
    torch.testing.assert_close((weights * losses).sum(), losses.sum())
    assert (weights.diff() < 0).all()


def test_unlikely_negatives_fill_up_at_the_least_weight() -> None:
    sampler = ScoreHLRSampler(num=12, pos_fraction=0.5, add_gt_as_proposals=False, score_thr=0.5)
    found = sampler.sample_judged(*candidates(2, 18), Judge())  # scores to 0.57: positions 17, 18 and 19
    assert found.neg_index[:3].tolist() == [19, 18, 17]
    assert len(found.neg_index.unique()) == 10
    weights = found.neg_label_weights
    assert weights is not None
    assert weights[3:].unique().tolist() == [weights[2].item()]
    none = ScoreHLRSampler(num=4, pos_fraction=0.5, add_gt_as_proposals=False, score_thr=0.99)
    plain = none.sample_judged(*candidates(0, 6), Judge())
    assert plain.neg_label_weights is not None
    assert plain.neg_label_weights.tolist() == [1.0] * 4
    nothing = none.sample_judged(*candidates(2, 0), Judge())
    assert len(nothing.neg_index) == 0
