"""Assignment by the cost of what the model predicts, with a number of priors that depends on the overlaps.

Shapes: P priors, G ground-truth boxes, C classes, V priors that may stand for a box.
Boxes: xyxy, pixels of the network input. Priors: centre (x, y) and strides (x, y).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from detector.ops.iou import pairwise_iou
from detector.targets.assigners.assignment import BACKGROUND, Assignment

FAR = 100000.0  # cost of a prior that is not in both the box and its centre


class SimOTAAssigner:
    """Every box takes the cheapest k priors, k being the sum of its largest overlaps.

    Source: Ge et al., 2021, arXiv:2107.08430; checked against mmdet 2.28.2
        core/bbox/assigners/sim_ota_assigner.py.
    """

    def __init__(
        self,
        *,
        center_radius: float = 2.5,
        candidate_topk: int = 10,
        iou_weight: float = 3.0,
        cls_weight: float = 1.0,
    ) -> None:
        """Set the cost.

        Args:
            center_radius: reach of a box's centre in strides.
            candidate_topk: overlaps that are summed for k.
            iou_weight: weight of minus log IoU.
            cls_weight: weight of the class cost.
        """
        self.center_radius, self.candidate_topk = center_radius, candidate_topk
        self.iou_weight, self.cls_weight = iou_weight, cls_weight

    @torch.no_grad()
    def assign(
        self, scores: Tensor, priors: Tensor, decoded: Tensor, gt_boxes: Tensor, gt_labels: Tensor
    ) -> Assignment:
        """Decide for every prior.

        Args:
            scores: (P, C) predicted probabilities.
            priors: (P, 4) centres and strides.
            decoded: (P, 4) predicted boxes.
            gt_boxes: (G, 4).
            gt_labels: (G,) int64.

        Returns:
            the assignment; ``overlap`` is with the box itself, 0 for background. Without ground truth all
            is background.
        """
        gt_index = priors.new_full((len(priors),), BACKGROUND, dtype=torch.long)
        overlap = priors.new_zeros(len(priors))
        near, both = self._near(priors, gt_boxes)
        rows = torch.nonzero(near).flatten()
        if len(rows) == 0:
            return Assignment(gt_index=gt_index, overlap=overlap)
        ious = pairwise_iou(decoded[rows], gt_boxes)  # (V, G)
        cost = (
            self._class_cost(scores[rows], gt_labels) * self.cls_weight
            - torch.log(ious + 1e-7) * self.iou_weight
            + (~both[rows]) * FAR
        )
        matched = self._match(cost, ious)
        taken = matched.any(dim=1)
        chosen = matched[taken].to(torch.uint8).argmax(dim=1)
        gt_index[rows[taken]] = chosen
        overlap[rows[taken]] = (matched * ious).sum(dim=1)[taken]
        return Assignment(gt_index=gt_index, overlap=overlap)

    def _near(self, priors: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) whether a prior is in any box or centre, (P, G) whether it is in both of one box."""
        points, reach = priors[:, None, :2], priors[:, None, 2:] * self.center_radius
        low, high = gt_boxes[None, :, :2], gt_boxes[None, :, 2:]
        centre = (low + high) / 2.0
        in_box = torch.cat((points - low, high - points), dim=2).amin(dim=2) > 0
        in_centre = torch.cat((points - (centre - reach), centre + reach - points), dim=2).amin(dim=2) > 0
        return in_box.any(dim=1) | in_centre.any(dim=1), in_box & in_centre

    @staticmethod
    def _class_cost(scores: Tensor, gt_labels: Tensor) -> Tensor:
        """Binary cross entropy (V, G) of the roots of (V, C) scores against each box's class."""
        one_hot = functional.one_hot(gt_labels, scores.shape[1]).float()
        shape = (len(scores), len(gt_labels), scores.shape[1])
        return functional.binary_cross_entropy(
            scores.float().sqrt()[:, None].expand(shape), one_hot[None].expand(shape), reduction="none"
        ).sum(dim=2)

    def _match(self, cost: Tensor, ious: Tensor) -> Tensor:
        """(V, G) whether a prior stands for a box; one with several boxes keeps the cheapest."""
        top = ious.topk(min(self.candidate_topk, len(ious)), dim=0).values
        matched = torch.zeros_like(cost, dtype=torch.bool)
        for box, count in enumerate(top.sum(dim=0).int().clamp(min=1).tolist()):
            matched[cost[:, box].topk(count, largest=False).indices, box] = True
        crowded = torch.nonzero(matched.sum(dim=1) > 1).flatten()
        matched[crowded] = False
        matched[crowded, cost[crowded].argmin(dim=1)] = True
        return matched
