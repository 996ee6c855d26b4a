"""Random sampling with a share of positives.

Shapes: P candidates, G ground-truth boxes.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.targets.assigners.assignment import Assignment
from detector.targets.samplers.sampling import Sampled, collect, negatives, positives


def choose(rows: Tensor, count: int) -> Tensor:
    """``count`` of the rows, ascending, drawn from torch's global CPU generator.

    All of them (no draw) when they are fewer.
    """
    if rows.numel() <= count:
        return rows
    order = torch.randperm(rows.numel())[:count].to(rows.device)
    return rows[order].sort().values


class RandomSampler:
    """Draw up to ``num`` candidates of one image, up to ``pos_fraction`` of them positive.

    Source: checked against mmdet 2.28.2 core/bbox/samplers/random_sampler.py.
    """

    def __init__(
        self, *, num: int, pos_fraction: float, neg_pos_ub: float = -1, add_gt_as_proposals: bool = True
    ) -> None:
        """Set the sizes.

        Args:
            num: candidates per image.
            pos_fraction: largest share of positives.
            neg_pos_ub: largest ratio of negatives to positives; -1 is no limit.
            add_gt_as_proposals: put the ground truth in front of the candidates.
        """
        self.num, self.pos_fraction, self.neg_pos_ub = num, pos_fraction, neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals

    def sample(
        self, assignment: Assignment, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor | None = None
    ) -> Sampled:
        """(P, 4) candidates and (G, 4) boxes; rows count the added ground truth.

        Draws from torch's global CPU generator.
        """
        index = assignment.gt_index
        if self.add_gt_as_proposals and len(gt_boxes):
            boxes = torch.cat((gt_boxes, boxes))
            index = torch.cat((torch.arange(len(gt_boxes), device=index.device), index))
        pos = choose(positives(index), int(self.num * self.pos_fraction))
        count = self.num - len(pos)
        if self.neg_pos_ub >= 0:
            count = min(count, int(self.neg_pos_ub * max(1, len(pos))))
        neg = choose(negatives(index), count)
        return collect(pos, neg, index, boxes, gt_boxes, gt_labels)
