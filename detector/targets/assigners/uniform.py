"""Assignment of equally many priors to every box.

Shapes: P priors, G ground-truth boxes, M = 2 * ``match_times`` * G pairs of a prior and a box.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.ops.iou import pairwise_iou
from detector.targets.assigners.assignment import BACKGROUND, IGNORE, Assignment


@dataclass(frozen=True)
class UniformMatch(Assignment):
    """An assignment with its pairs; a prior may be in several.

    Attributes:
        pair_rows: (M,) int64 priors.
        pair_gt: (M,) int64 rows of the ground truth.
        pair_good: (M,) bool, whether prior and box overlap enough to learn the box.
    """

    pair_rows: Tensor
    pair_gt: Tensor
    pair_good: Tensor


def _cxcywh(boxes: Tensor) -> Tensor:
    """Centre and size (N, 4) of (N, 4) corners."""
    return torch.cat(((boxes[:, :2] + boxes[:, 2:]) * 0.5, boxes[:, 2:] - boxes[:, :2]), dim=1)


class UniformAssigner:
    """Every box takes the priors nearest to it, and those whose predictions are nearest to it.

    Source: Chen et al., CVPR 2021, arXiv:2103.09460; checked against mmdet 2.28.2
        core/bbox/assigners/uniform_assigner.py.
    """

    def __init__(self, *, pos_ignore_thr: float, neg_ignore_thr: float, match_times: int = 4) -> None:
        """Set the thresholds.

        Args:
            pos_ignore_thr: pairs of less IoU between prior and box are ignored.
            neg_ignore_thr: background whose prediction has more IoU with a box is ignored.
            match_times: priors per box and kind of nearness.
        """
        self.pos_ignore_thr, self.neg_ignore_thr = pos_ignore_thr, neg_ignore_thr
        self.match_times = match_times

    @torch.no_grad()
    def assign_predicted(self, decoded: Tensor, priors: Tensor, gt_boxes: Tensor) -> UniformMatch:
        """Decide for every prior.

        Args:
            decoded: (P, 4) predicted boxes.
            priors: (P, 4).
            gt_boxes: (G, 4); without any all is background.

        Returns:
            the match; ``overlap`` is the IoU of the prior. Where boxes compete the last pair wins.
        """
        index = priors.new_full((len(priors),), BACKGROUND, dtype=torch.long)
        if len(gt_boxes) == 0 or len(priors) == 0:
            none = index[:0]
            return UniformMatch(index, priors.new_zeros(len(priors)), none, none, none.bool())
        count = min(self.match_times, len(priors))
        near = [
            torch.cdist(_cxcywh(boxes), _cxcywh(gt_boxes), p=1).topk(count, dim=0, largest=False).indices
            for boxes in (decoded, priors)
        ]
        rows = torch.cat(near, dim=1).flatten()
        owner = torch.arange(len(gt_boxes), device=rows.device).repeat(count * 2)
        index[pairwise_iou(decoded, gt_boxes).amax(dim=1) > self.neg_ignore_thr] = IGNORE
        overlaps = pairwise_iou(priors, gt_boxes)
        good = overlaps[rows, owner] >= self.pos_ignore_thr
        # several pairs of one prior: the last one, whatever order the device writes in
        order = torch.arange(len(rows), device=rows.device)
        last = torch.full_like(index, -1).scatter_reduce_(0, rows, order, "amax")
        decision = torch.where(good, owner, IGNORE)[last.clamp(min=0)]
        return UniformMatch(
            gt_index=torch.where(last >= 0, decision, index),
            overlap=overlaps.amax(dim=1),
            pair_rows=rows,
            pair_gt=owner,
            pair_good=good,
        )
