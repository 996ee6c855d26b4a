"""Assignment inside the grid cell that holds the centre of a box.

Shapes: P anchors, G ground-truth boxes.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.ops.iou import pairwise_iou
from detector.targets.assigners.assignment import BACKGROUND, IGNORE, Assignment


class GridAssigner:
    """Anchors of responsible cells stand for the box they overlap most.

    Source: Redmon and Farhadi, 2018, arXiv:1804.02767; checked against mmdet 2.28.2
        core/bbox/assigners/grid_assigner.py.
    """

    def __init__(
        self,
        *,
        pos_iou_thr: float,
        neg_iou_thr: float | Sequence[float],
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
    ) -> None:
        """Set the thresholds.

        Args:
            pos_iou_thr: above this IoU a responsible anchor is positive.
            neg_iou_thr: up to this IoU an anchor is background; or (low, high), above the first.
            min_pos_iou: what the IoU of a box's best responsible anchor must exceed to count.
            gt_max_assign_all: every responsible anchor with a box's best IoU counts, not only the first.
        """
        self.pos_iou_thr, self.min_pos_iou, self.gt_max_assign_all = (
            pos_iou_thr,
            min_pos_iou,
            gt_max_assign_all,
        )
        self.neg_iou_thr = neg_iou_thr

    def _is_background(self, best: Tensor) -> Tensor:
        if isinstance(self.neg_iou_thr, (int, float)):
            return (best >= 0) & (best <= self.neg_iou_thr)
        low, high = self.neg_iou_thr
        return (best > low) & (best <= high)

    def assign(self, boxes: Tensor, responsible: Tensor, gt_boxes: Tensor) -> Assignment:
        """(P, 4) anchors, (P,) bool flags and (G, 4) boxes give one decision per anchor.

        Without ground truth everything is background. A later box takes an anchor from an earlier one.
        """
        gt_index = boxes.new_full((len(boxes),), IGNORE, dtype=torch.long)
        if len(gt_boxes) == 0 or len(boxes) == 0:
            if len(gt_boxes) == 0:
                gt_index.fill_(BACKGROUND)
            return Assignment(gt_index=gt_index, overlap=boxes.new_zeros(len(boxes)))
        overlaps = pairwise_iou(gt_boxes, boxes)  # (G, P)
        gt_index[self._is_background(overlaps.max(dim=0).values)] = BACKGROUND
        overlaps = overlaps.masked_fill(~responsible, -1.0)
        best, best_gt = overlaps.max(dim=0)
        gt_index = torch.where((best > self.pos_iou_thr) & responsible, best_gt, gt_index)
        peak, first = overlaps.max(dim=1)
        if self.gt_max_assign_all:
            wins = overlaps == peak[:, None]
        else:
            wins = torch.zeros_like(overlaps, dtype=torch.bool)
            wins[torch.arange(len(overlaps), device=overlaps.device), first] = True
        wins &= responsible & (peak > self.min_pos_iou)[:, None]
        rows = torch.arange(len(overlaps), device=overlaps.device)[:, None]
        winner = torch.where(wins, rows, -1).max(dim=0).values
        return Assignment(gt_index=torch.where(winner >= 0, winner, gt_index), overlap=best)
