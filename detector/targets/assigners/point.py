"""Assignment of the points nearest to the centre of each box, on the level of its size.

Shapes: P points of all levels, G ground-truth boxes, K ignored boxes.
Boxes: xyxy, pixels of the network input. Points: (x, y, stride) or more columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.targets.assigners.assignment import BACKGROUND, Assignment


class PointAssigner:
    """Every box takes its nearest points, every point its nearest box.

    Source: Yang et al., ICCV 2019, arXiv:1904.11490; checked against mmdet 2.28.2
        core/bbox/assigners/point_assigner.py.
    """

    def __init__(self, *, scale: float = 4, pos_num: int = 3) -> None:
        """``scale`` is the side, in strides, of the boxes a level is for; ``pos_num`` the points per box."""
        self.scale, self.pos_num = scale, pos_num

    @torch.no_grad()
    def assign(self, boxes: Tensor, gt_boxes: Tensor, ignore_boxes: Tensor | None = None) -> Assignment:
        """(P, 3+) points, here in the place of boxes, and (G, 4) boxes give one decision per point.

        Without ground truth everything is background; ignored boxes play no part.
        """
        index = boxes.new_full((len(boxes),), BACKGROUND, dtype=torch.long)
        overlap = boxes.new_zeros(len(boxes))
        if len(gt_boxes) == 0 or len(boxes) == 0:
            return Assignment(gt_index=index, overlap=overlap)
        level = torch.log2(boxes[:, 2]).int()
        centre, size = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2, (gt_boxes[:, 2:] - gt_boxes[:, :2])
        size = size.clamp(min=1e-6)
        wanted = (torch.log2(size / self.scale).sum(dim=1) / 2).int()
        wanted = torch.maximum(torch.minimum(wanted, level.max()), level.min())
        distance = ((boxes[:, None, :2] - centre[None]) / size[None]).norm(dim=2)  # (P, G)
        distance = distance.masked_fill(level[:, None] != wanted[None], torch.inf)
        near = distance.topk(min(self.pos_num, len(boxes)), dim=0, largest=False).indices
        candidate = torch.zeros_like(distance, dtype=torch.bool).scatter_(0, near, True)
        best, owner = distance.masked_fill(~candidate, torch.inf).min(dim=1)
        return Assignment(gt_index=torch.where(torch.isfinite(best), owner, index), overlap=overlap)
