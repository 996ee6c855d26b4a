"""Online hard example mining: the candidates with the largest classification losses.

Shapes: P candidates, G ground-truth boxes.
Boxes: xyxy, pixels of the network input.
Paper: Shrivastava et al., CVPR 2016, arXiv:1604.03540; checked against mmdet 2.28.2
core/bbox/samplers/ohem_sampler.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.targets.assigners.assignment import Assignment
from detector.targets.samplers.sampling import (
    RegionJudge,
    Sampled,
    collect,
    negatives,
    positives,
    room_for_negatives,
    with_ground_truth,
)


class OHEMSampler:
    """Draws nothing: asks the box head which candidates it gets most wrong."""

    def __init__(
        self,
        *,
        num: int,
        pos_fraction: float,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
        loss_key: str = "loss_cls",
    ) -> None:
        """Set the sizes.

        Args:
            num: candidates per image.
            pos_fraction: largest share of positives.
            neg_pos_ub: largest ratio of negatives to positives; -1 is no limit.
            add_gt_as_proposals: put the ground truth in front of the candidates.
            loss_key: the loss to rank by; only loss_cls is known for every candidate.

        Raises:
            ConfigError: another ``loss_key``.
        """
        if loss_key != "loss_cls":
            raise ConfigError(f"OHEMSampler: loss_key {loss_key!r}; expected 'loss_cls'.")
        self.num, self.pos_fraction, self.neg_pos_ub = num, pos_fraction, neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    def sample_judged(
        self, assignment: Assignment, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor, judge: RegionJudge
    ) -> Sampled:
        """(P, 4) candidates and (G, 4) boxes; rows count the added ground truth."""
        index = assignment.gt_index
        if self.add_gt_as_proposals and len(gt_boxes):
            index, _, boxes = with_ground_truth(index, assignment.overlap, boxes, gt_boxes)
        rows = positives(index)
        pos = _hardest(rows, boxes, gt_labels[index[rows]], int(self.num * self.pos_fraction), judge)
        rows = negatives(index)
        background = torch.full_like(rows, judge.num_classes)
        room = room_for_negatives(self.num, len(pos), self.neg_pos_ub)
        neg = _hardest(rows, boxes, background, room, judge)
        return collect(pos, neg, index, boxes, gt_boxes, gt_labels)


def _hardest(rows: Tensor, boxes: Tensor, labels: Tensor, count: int, judge: RegionJudge) -> Tensor:
    """``count`` of the rows with the largest losses, ascending; all (unasked) when they are fewer."""
    if len(rows) <= count:
        return rows
    return rows[judge.losses(boxes[rows], labels).topk(count).indices].sort().values
