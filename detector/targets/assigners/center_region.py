"""Assignment by the middle of each box.

Shapes: P priors, G ground-truth boxes, K ignored boxes.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.ops.iou import pairwise_iof
from detector.structures.boxes import area
from detector.targets.assigners.assignment import BACKGROUND, IGNORE, Assignment


def scaled(boxes: Tensor, scale: float) -> Tensor:
    """(N, 4) boxes with sides ``scale`` times as long around the same centres."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    return torch.cat((centre - half, centre + half), dim=1)


def contains(boxes: Tensor, points: Tensor) -> Tensor:
    """(P, G) whether (P, 2) points lie strictly inside (G, 4) boxes."""
    after, before = points[:, None] > boxes[None, :, :2], points[:, None] < boxes[None, :, 2:]
    return after.all(dim=2) & before.all(dim=2)


class CenterRegionAssigner:
    """A prior in the core of a box stands for it; in the shadow around the core it is no sample of its class.

    Source: Zhu et al., CVPR 2019, arXiv:1903.00621; checked against mmdet 2.28.2
        core/bbox/assigners/center_region_assigner.py.
    """

    def __init__(
        self,
        *,
        pos_scale: float,
        neg_scale: float,
        min_pos_iof: float = 1e-2,
        ignore_gt_scale: float = 0.5,
        foreground_dominate: bool = False,
    ) -> None:
        """Set the regions.

        Args:
            pos_scale: sides of the core over those of the box.
            neg_scale: sides of the shadow over those of the box.
            min_pos_iof: share of a prior's area that must lie in a region.
            ignore_gt_scale: sides of the region of an ignored box that ignores priors.
            foreground_dominate: a core beats the shadow of another box of the same class.
        """
        self.pos_scale, self.neg_scale, self.min_pos_iof = pos_scale, neg_scale, min_pos_iof
        self.ignore_gt_scale, self.foreground_dominate = ignore_gt_scale, foreground_dominate

    def assign(self, boxes: Tensor, gt_boxes: Tensor, ignore_boxes: Tensor | None = None) -> Assignment:
        """(P, 4) priors, (G, 4) boxes and (K, 4) ignored boxes give one decision per prior."""
        gt_index, _ = self._regions(boxes, gt_boxes, ignore_boxes)
        return Assignment(gt_index=gt_index, overlap=boxes.new_zeros(len(boxes)))

    def assign_shadowed(
        self, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor, ignore_boxes: Tensor | None = None
    ) -> tuple[Assignment, Tensor]:
        """Assign, and say where a class must not be learned.

        Args:
            boxes: (P, 4) priors.
            gt_boxes: (G, 4).
            gt_labels: (G,) int64.
            ignore_boxes: (K, 4).

        Returns:
            the assignment, and (P, G) bool pairs of a prior and a box whose class it is no sample of.
        """
        gt_index, shadowed = self._regions(boxes, gt_boxes, ignore_boxes)
        if len(gt_boxes):
            own = torch.where(gt_index >= 0, gt_labels[gt_index.clamp(min=0)], -1)
            same = shadowed & (own[:, None] == gt_labels[None])
            if self.foreground_dominate:
                shadowed = shadowed & ~same
            else:
                gt_index = gt_index.masked_fill(same.any(dim=1), BACKGROUND)
        return Assignment(gt_index=gt_index, overlap=boxes.new_zeros(len(boxes))), shadowed

    def _regions(self, boxes: Tensor, gt_boxes: Tensor, ignore_boxes: Tensor | None) -> tuple[Tensor, Tensor]:
        """(P,) decisions, and (P, G) pairs in a shadow or in a core that lost to a smaller box."""
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        gt_index = boxes.new_full((len(boxes),), BACKGROUND, dtype=torch.long)
        core = pairwise_iof(boxes, scaled(gt_boxes, self.pos_scale)) > self.min_pos_iof
        core &= contains(gt_boxes, centres)
        shadow = (pairwise_iof(boxes, scaled(gt_boxes, self.neg_scale)) > self.min_pos_iof) & ~core
        if len(gt_boxes) and len(boxes):
            # rank by area, the smallest box highest; ranks differ, so that a prior has one winner
            rank = area(gt_boxes).argsort(descending=True).argsort()
            best, winner = torch.where(core, rank[None], -1).max(dim=1)
            gt_index = torch.where(best >= 0, winner, gt_index)
            shadow |= core & (torch.arange(len(gt_boxes), device=boxes.device)[None] != gt_index[:, None])
        if ignore_boxes is not None and len(ignore_boxes):
            hidden = contains(scaled(ignore_boxes, self.ignore_gt_scale), centres).any(dim=1)
            gt_index = gt_index.masked_fill(hidden, IGNORE)
        return gt_index, shadow
