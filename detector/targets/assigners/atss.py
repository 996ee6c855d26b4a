"""Assignment by adaptive selection: the anchors nearest a box, cut at a threshold of their own overlaps.

Shapes: P priors of all levels, G ground-truth boxes, K ignored boxes, N candidates of a box.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from detector.ops.iou import pairwise_iof, pairwise_iou
from detector.targets.assigners.assignment import BACKGROUND, IGNORE, Assignment

_FAR = 1e8


class ATSSAssigner:
    """A box takes the close priors whose overlap exceeds mean plus deviation over its close priors.

    Source: Zhang et al., CVPR 2020, arXiv:1912.02424; with ``alpha`` Chen et al., 2021, arXiv:2107.02963;
    checked
        against mmdet 2.28.2 core/bbox/assigners/atss_assigner.py.
    """

    def __init__(self, *, topk: int, alpha: float | None = None, ignore_iof_thr: float = -1) -> None:
        """Set the rules.

        Args:
            topk: close priors per level and box.
            alpha: share of the overlap against the class score in ``joint_quality``.
            ignore_iof_thr: priors inside ignored boxes by more than this are ignored; -1 switches off.
        """
        self.topk, self.alpha, self.ignore_iof_thr = topk, alpha, ignore_iof_thr

    def joint_quality(self, logits: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor) -> Tensor:
        """What predictions are worth (P, G): class score and overlap, geometrically weighted by ``alpha``.

        Args:
            logits: (P, C).
            boxes: (P, 4) predicted.
            gt_boxes: (G, 4).
            gt_labels: (G,) int64 in [0, C).
        """
        assert self.alpha is not None, "joint_quality needs alpha"
        score, overlap = logits[:, gt_labels].sigmoid(), pairwise_iou(boxes, gt_boxes)
        return score ** (1 - self.alpha) * overlap**self.alpha

    def assign_levels(
        self,
        boxes: Tensor,
        counts: Sequence[int],
        gt_boxes: Tensor,
        ignore_boxes: Tensor | None = None,
        *,
        quality: Tensor | None = None,
    ) -> Assignment:
        """Assign priors level by level.

        Args:
            boxes: (P, 4) priors.
            counts: priors of each level, in order; a level may be empty.
            gt_boxes: (G, 4); none gives background only.
            ignore_boxes: (K, 4).
            quality: (P, G) takes the place of the overlaps.

        Returns:
            one decision per prior; ``overlap`` is 0 where a prior is not positive.
        """
        num_priors, num_gt = len(boxes), len(gt_boxes)
        gt_index = boxes.new_full((num_priors,), BACKGROUND, dtype=torch.long)
        if num_priors == 0 or num_gt == 0:
            return Assignment(gt_index=gt_index, overlap=boxes.new_zeros(num_priors))
        overlaps = pairwise_iou(boxes, gt_boxes) if quality is None else quality
        centres = torch.stack((boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]), dim=1) / 2.0
        ignored = self._ignored(boxes, ignore_boxes)
        nearest = self._nearest(centres, counts, gt_boxes, ignored)
        columns = torch.arange(num_gt, device=boxes.device)
        found = overlaps[nearest, columns]  # (N, G)
        positive = found >= found.mean(dim=0) + found.std(dim=0)
        reach = torch.cat((centres[nearest] - gt_boxes[:, :2], gt_boxes[:, 2:] - centres[nearest]), dim=-1)
        positive &= reach.amin(dim=-1) > 0.01
        claimed = torch.full_like(overlaps, -_FAR)
        rows = nearest[positive]
        boxes_of_rows = columns.expand_as(nearest)[positive]
        claimed[rows, boxes_of_rows] = overlaps[rows, boxes_of_rows]
        best, best_gt = claimed.max(dim=1)
        taken = best > -_FAR
        gt_index[ignored] = IGNORE
        gt_index = torch.where(taken, best_gt, gt_index)
        return Assignment(gt_index=gt_index, overlap=torch.where(taken, best, torch.zeros_like(best)))

    def _ignored(self, boxes: Tensor, ignore_boxes: Tensor | None) -> Tensor:
        """Which priors (P,) lie in ignored boxes."""
        if self.ignore_iof_thr <= 0 or ignore_boxes is None or len(ignore_boxes) == 0:
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        return pairwise_iof(boxes, ignore_boxes).amax(dim=1) > self.ignore_iof_thr

    def _nearest(self, centres: Tensor, counts: Sequence[int], gt_boxes: Tensor, ignored: Tensor) -> Tensor:
        """Rows (N, G) of the priors nearest each box, up to ``topk`` of every level."""
        gt_centres = torch.stack((gt_boxes[:, 0] + gt_boxes[:, 2], gt_boxes[:, 1] + gt_boxes[:, 3]), dim=1)
        distances = (centres[:, None] - gt_centres[None] / 2.0).pow(2).sum(dim=-1).sqrt()
        distances[ignored] = _FAR
        levels = [
            distances[low:high].topk(min(self.topk, high - low), dim=0, largest=False).indices + low
            for low, high in pairwise((0, *accumulate(counts)))
        ]
        return torch.cat(levels)
