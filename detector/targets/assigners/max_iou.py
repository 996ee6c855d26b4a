"""Assignment by largest overlap.

Shapes: P priors or proposals, G ground-truth boxes, K ignored boxes.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.ops.iou import pairwise_iof, pairwise_iou
from detector.targets.assigners.assignment import BACKGROUND, IGNORE, Assignment


class MaxIoUAssigner:
    """A prior stands for the box it overlaps most, when the overlap suffices.

    Source: Ren et al., NeurIPS 2015, arXiv:1506.01497; checked against mmdet 2.28.2
        core/bbox/assigners/max_iou_assigner.py.
    """

    def __init__(
        self,
        *,
        pos_iou_thr: float,
        neg_iou_thr: float | Sequence[float],
        min_pos_iou: float = 0.0,
        gt_max_assign_all: bool = True,
        ignore_iof_thr: float = -1,
        ignore_wrt_candidates: bool = True,
        match_low_quality: bool = True,
        gpu_assign_thr: float = -1,
    ) -> None:
        """Set the thresholds.

        Args:
            pos_iou_thr: from this IoU on a prior is positive.
            neg_iou_thr: below this IoU it is background; or (low, high), half open.
            min_pos_iou: least IoU for a box's best prior to count.
            gt_max_assign_all: every prior with a box's best IoU counts, not only the first.
            ignore_iof_thr: priors inside ignored boxes by more than this are ignored; -1 switches off.
            ignore_wrt_candidates: that share is of the prior's area, not of the ignored box's.
            match_low_quality: give every box its best prior even below ``pos_iou_thr``.
            gpu_assign_thr: accepted for the dialect; assignment stays where the boxes are.
        """
        self.pos_iou_thr, self.min_pos_iou = pos_iou_thr, min_pos_iou
        self.neg_range = (
            (0.0, float(neg_iou_thr)) if isinstance(neg_iou_thr, (int, float)) else tuple(neg_iou_thr)
        )
        self.gt_max_assign_all, self.match_low_quality = gt_max_assign_all, match_low_quality
        self.ignore_iof_thr, self.ignore_wrt_candidates = ignore_iof_thr, ignore_wrt_candidates

    def assign(self, boxes: Tensor, gt_boxes: Tensor, ignore_boxes: Tensor | None = None) -> Assignment:
        """(P, 4) priors, (G, 4) boxes and (K, 4) ignored boxes give one decision per prior.

        Without ground truth everything is background. Priors between the thresholds are ignored.
        """
        overlaps = pairwise_iou(gt_boxes, boxes)  # (G, P)
        overlaps[:, self.ignored(boxes, ignore_boxes)] = -1
        return self.by_overlaps(overlaps)

    def ignored(self, boxes: Tensor, ignore_boxes: Tensor | None) -> Tensor:
        """Which priors (P,) lie in ignored boxes (K, 4)."""
        if self.ignore_iof_thr <= 0 or ignore_boxes is None or len(ignore_boxes) == 0:
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        iof = (
            pairwise_iof(boxes, ignore_boxes)
            if self.ignore_wrt_candidates
            else pairwise_iof(ignore_boxes, boxes).T
        )
        return iof.amax(dim=1) > self.ignore_iof_thr

    def by_overlaps(self, overlaps: Tensor) -> Assignment:
        """Decide by overlaps (G, P); negative ones are of ignored priors."""
        num_gt, num_priors = overlaps.shape
        gt_index = overlaps.new_full((num_priors,), IGNORE, dtype=torch.long)
        if num_gt == 0 or num_priors == 0:
            if num_gt == 0:
                gt_index.fill_(BACKGROUND)
            return Assignment(gt_index=gt_index, overlap=overlaps.new_zeros(num_priors))
        best, best_gt = overlaps.max(dim=0)
        low, high = self.neg_range
        gt_index[(best >= low) & (best < high)] = BACKGROUND
        gt_index = torch.where(best >= self.pos_iou_thr, best_gt, gt_index)
        if self.match_low_quality:
            gt_index = self._add_best_priors(overlaps, gt_index)
        return Assignment(gt_index=gt_index, overlap=best)

    def _add_best_priors(self, overlaps: Tensor, gt_index: Tensor) -> Tensor:
        """Give every box its best priors.

        Where boxes compete the last one wins, as in the reference's loop.
        """
        gt_best, gt_argbest = overlaps.max(dim=1)
        enough = gt_best >= self.min_pos_iou
        if self.gt_max_assign_all:
            is_best = overlaps == gt_best[:, None]
        else:
            is_best = torch.zeros_like(overlaps, dtype=torch.bool)
            is_best[torch.arange(len(overlaps), device=overlaps.device), gt_argbest] = True
        is_best &= enough[:, None]
        rows = torch.arange(len(overlaps), device=overlaps.device)[:, None]
        winner = torch.where(is_best, rows, -1).max(dim=0).values
        return torch.where(winner >= 0, winner, gt_index)
