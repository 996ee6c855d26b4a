"""Sampling that balances positives over objects and negatives over overlaps (Libra R-CNN).

Shapes: P candidates, G ground-truth boxes.
Boxes: xyxy, pixels of the network input.
Paper: Pang et al., CVPR 2019, arXiv:1904.02701; checked against mmdet 2.28.2 core/bbox/samplers
(combined_sampler.py, instance_balanced_pos_sampler.py, iou_balanced_neg_sampler.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.structures.specs import Spec
from detector.targets.assigners.assignment import Assignment
from detector.targets.samplers.random import choose
from detector.targets.samplers.sampling import (
    Sampled,
    collect,
    negatives,
    positives,
    room_for_negatives,
    with_ground_truth,
)


def fill_up(chosen: Tensor, pool: Tensor, count: int) -> Tensor:
    """Add random rows of the pool that are not chosen yet until there are ``count``; ascending."""
    left = pool[~torch.isin(pool, chosen)]
    return torch.cat((chosen, choose(left, max(count - len(chosen), 0)))).sort().values


def choose_per_object(rows: Tensor, gt_index: Tensor, count: int) -> Tensor:
    """``count`` of the rows, about as many for every object; all when they are fewer.

    Args:
        rows: (n,) int64 positive candidates.
        gt_index: (P,) int64 the object of every candidate.
        count: how many to take.
    """
    if len(rows) <= count:
        return rows
    owner = gt_index[rows]
    objects = owner.unique()
    share = round(count / len(objects)) + 1
    chosen = torch.cat([choose(rows[owner == one], share) for one in objects])
    return fill_up(chosen, rows, count) if len(chosen) < count else choose(chosen.sort().values, count)


@dataclass(frozen=True)
class OverlapBins:
    """How negatives are spread over their IoU with the ground truth.

    Attributes:
        floor_thr: below this IoU candidates count as easy; -1 means there are no easy ones apart from
            those of IoU 0, which only fill up.
        floor_fraction: share of easy candidates.
        num_bins: equal intervals of IoU from which the others are drawn evenly.
    """

    floor_thr: float = -1
    floor_fraction: float = 0
    num_bins: int = 3

    def choose(self, rows: Tensor, overlap: Tensor, count: int) -> Tensor:
        """``count`` of the rows (n,) by the overlaps (P,) of all candidates; all when they are fewer."""
        if len(rows) <= count:
            return rows
        own = overlap[rows]
        if self.floor_thr > 0:
            easy, hard = rows[(own >= 0) & (own < self.floor_thr)], rows[own >= self.floor_thr]
        elif self.floor_thr == 0:
            easy, hard = rows[own == 0], rows[own > 0]
        else:
            easy, hard = rows[:0], rows[own > self.floor_thr]
        wanted = int(count * (1 - self.floor_fraction))
        picked = hard
        if len(hard) > wanted:
            picked = choose(hard, wanted) if self.num_bins < 2 else self._from_bins(hard, overlap, wanted)
        picked = torch.cat((choose(easy, count - len(picked)), picked))
        return fill_up(picked, rows, count)

    def _from_bins(self, rows: Tensor, overlap: Tensor, count: int) -> Tensor:
        """Equal numbers from every interval between the floor and the largest overlap of all candidates."""
        floor = max(self.floor_thr, 0.0)
        width = (float(overlap.max()) - floor) / self.num_bins
        own = overlap[rows]
        bins = [
            rows[(own >= floor + i * width) & (own < floor + (i + 1) * width)] for i in range(self.num_bins)
        ]
        chosen = torch.cat([choose(one, count // self.num_bins) for one in bins])
        return fill_up(chosen, rows, count)


@dataclass(frozen=True)
class PartSpec(Spec):
    """How one half of a ``CombinedSampler`` chooses.

    ``type``: RandomSampler, InstanceBalancedPosSampler or IoUBalancedNegSampler; the rest as in
    ``OverlapBins``, for the last one only.
    """

    type: str = "RandomSampler"
    floor_thr: float = -1
    floor_fraction: float = 0
    num_bins: int = 3

    @property
    def bins(self) -> OverlapBins:
        """The settings of a spread over overlaps.

        Raises:
            ConfigError: a setting is out of range.
        """
        if not (self.floor_thr == -1 or self.floor_thr >= 0) or not 0 <= self.floor_fraction <= 1:
            raise ConfigError(
                f"IoUBalancedNegSampler: found floor_thr={self.floor_thr}, "
                f"floor_fraction={self.floor_fraction}; expected -1 or an IoU, and a share in [0, 1]."
            )
        if self.num_bins < 1:
            raise ConfigError(f"IoUBalancedNegSampler: found num_bins={self.num_bins}; expected at least 1.")
        return OverlapBins(self.floor_thr, self.floor_fraction, self.num_bins)


class CombinedSampler:
    """One rule for positives, another for negatives; draws from torch's global CPU generator."""

    def __init__(
        self,
        *,
        num: int,
        pos_fraction: float,
        pos_sampler: PartSpec,
        neg_sampler: PartSpec,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
    ) -> None:
        """Set sizes and rules.

        Args:
            num: candidates per image.
            pos_fraction: largest share of positives.
            pos_sampler: RandomSampler or InstanceBalancedPosSampler.
            neg_sampler: RandomSampler or IoUBalancedNegSampler.
            neg_pos_ub: largest ratio of negatives to positives; -1 is no limit.
            add_gt_as_proposals: put the ground truth in front of the candidates.

        Raises:
            ConfigError: another rule.
        """
        for part, name, kinds in (
            (pos_sampler, "pos_sampler", ("RandomSampler", "InstanceBalancedPosSampler")),
            (neg_sampler, "neg_sampler", ("RandomSampler", "IoUBalancedNegSampler")),
        ):
            if part.type not in kinds:
                raise ConfigError(f"CombinedSampler: {name} is {part.type!r}; expected {' or '.join(kinds)}.")
        self.num, self.pos_fraction, self.neg_pos_ub = num, pos_fraction, neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals
        self._per_object = pos_sampler.type == "InstanceBalancedPosSampler"
        self._bins = neg_sampler.bins if neg_sampler.type == "IoUBalancedNegSampler" else None

    def sample(
        self, assignment: Assignment, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor | None = None
    ) -> Sampled:
        """(P, 4) candidates and (G, 4) boxes; rows count the added ground truth."""
        index, overlap = assignment.gt_index, assignment.overlap
        if self.add_gt_as_proposals and len(gt_boxes):
            index, overlap, boxes = with_ground_truth(index, overlap, boxes, gt_boxes)
        rows, count = positives(index), int(self.num * self.pos_fraction)
        pos = choose_per_object(rows, index, count) if self._per_object else choose(rows, count)
        rows, count = negatives(index), room_for_negatives(self.num, len(pos), self.neg_pos_ub)
        neg = choose(rows, count) if self._bins is None else self._bins.choose(rows, overlap, count)
        return collect(pos, neg, index, boxes, gt_boxes, gt_labels)


class InstanceBalancedPosSampler(CombinedSampler):
    """Positives balanced over objects, random negatives."""

    def __init__(
        self, *, num: int, pos_fraction: float, neg_pos_ub: float = -1, add_gt_as_proposals: bool = True
    ) -> None:
        """Arguments as in ``CombinedSampler``."""
        super().__init__(
            num=num,
            pos_fraction=pos_fraction,
            pos_sampler=PartSpec("InstanceBalancedPosSampler"),
            neg_sampler=PartSpec("RandomSampler"),
            neg_pos_ub=neg_pos_ub,
            add_gt_as_proposals=add_gt_as_proposals,
        )


class IoUBalancedNegSampler(CombinedSampler):
    """Random positives, negatives balanced over overlaps."""

    def __init__(
        self,
        *,
        num: int,
        pos_fraction: float,
        floor_thr: float = -1,
        floor_fraction: float = 0,
        num_bins: int = 3,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
    ) -> None:
        """Arguments as in ``CombinedSampler`` and ``OverlapBins``."""
        super().__init__(
            num=num,
            pos_fraction=pos_fraction,
            pos_sampler=PartSpec("RandomSampler"),
            neg_sampler=PartSpec("IoUBalancedNegSampler", floor_thr, floor_fraction, num_bins),
            neg_pos_ub=neg_pos_ub,
            add_gt_as_proposals=add_gt_as_proposals,
        )
