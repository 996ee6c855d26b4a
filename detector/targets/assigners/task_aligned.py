"""Assignment by how well a prior both classifies and locates a box.

Shapes: P priors, G ground-truth boxes, C classes.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.ops.iou import pairwise_iou
from detector.targets.assigners.assignment import BACKGROUND, Assignment


@dataclass(frozen=True)
class Alignment(Assignment):
    """An assignment with the alignment of each positive prior.

    Attributes:
        metric: (P,) score to the power alpha times IoU to the power beta, 0 for background; ``overlap`` is
            the IoU of the prediction with the assigned box.
    """

    metric: Tensor


class TaskAlignedAssigner:
    """Every box takes the best aligned priors whose centres lie inside it.

    Source: Feng et al., ICCV 2021, arXiv:2108.07755; checked against mmdet 2.28.2
        core/bbox/assigners/task_aligned_assigner.py.
    """

    def __init__(self, *, topk: int) -> None:
        """``topk`` is how many priors a box looks at."""
        self.topk = topk

    @torch.no_grad()
    def assign_aligned(
        self,
        scores: Tensor,
        decoded: Tensor,
        priors: Tensor,
        gt_boxes: Tensor,
        gt_labels: Tensor,
        *,
        alpha: float = 1,
        beta: float = 6,
    ) -> Alignment:
        """Decide for every prior.

        Args:
            scores: (P, C) predicted probabilities.
            decoded: (P, 4) predicted boxes.
            priors: (P, 4) anchors.
            gt_boxes: (G, 4); without any all is background.
            gt_labels: (G,) int64.
            alpha: weight of the score.
            beta: weight of the IoU.
        """
        index = priors.new_full((len(priors),), BACKGROUND, dtype=torch.long)
        nothing = priors.new_zeros(len(priors))
        if len(gt_boxes) == 0 or len(priors) == 0:
            return Alignment(gt_index=index, overlap=nothing, metric=nothing)
        overlaps = pairwise_iou(decoded, gt_boxes)
        metrics = scores[:, gt_labels] ** alpha * overlaps**beta  # (P, G)
        best = metrics.topk(min(self.topk, len(priors)), dim=0).indices
        candidate = torch.zeros_like(metrics, dtype=torch.bool).scatter_(0, best, True)
        centres = ((priors[:, :2] + priors[:, 2:4]) / 2)[:, None]
        margin = torch.cat((centres - gt_boxes[None, :, :2], gt_boxes[None, :, 2:] - centres), dim=2)
        candidate &= (metrics > 0) & (margin.amin(dim=2) > 0.01)
        # where boxes compete for a prior the larger IoU wins
        own_overlap, owner = torch.where(candidate, overlaps, -1.0).max(dim=1)
        taken = own_overlap >= 0
        return Alignment(
            gt_index=torch.where(taken, owner, index),
            overlap=torch.where(taken, own_overlap, nothing),
            metric=torch.where(taken, metrics.gather(1, owner[:, None])[:, 0], nothing),
        )
