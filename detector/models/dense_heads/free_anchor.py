"""FreeAnchor: every object learns which of a bag of anchors to use.

Shapes: B images, P anchors of all levels, C classes, G objects of one image, K anchors of a bag.
Boxes: xyxy, pixels of the padded network input.
Paper: Zhang et al., NeurIPS 2019, arXiv:1909.02466. Attribute names are the checkpoint format (MMDetection
2.28, models/dense_heads/free_anchor_retina_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from detector.models.dense_heads.anchor_targets import flatten_levels, map_sizes
from detector.models.dense_heads.retina import RetinaHead
from detector.ops.iou import pairwise_iou
from detector.structures.samples import ImageMeta, Targets

_EPS = 1e-12


class FreeAnchorRetinaHead(RetinaHead):
    """RetinaNet's head with a likelihood instead of an assignment."""

    def __init__(
        self,
        *,
        pre_anchor_topk: int = 50,
        bbox_thr: float = 0.6,
        gamma: float = 2.0,
        alpha: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """Describe the loss; the rest as in ``RetinaHead``.

        Args:
            pre_anchor_topk: anchors in a bag.
            bbox_thr: IoU from which a box may stand for an object.
            gamma: how fast easy negatives fade.
            alpha: weight of the positive bags, 1 - alpha of the negatives.
            kwargs: the arguments of ``RetinaHead``.
        """
        super().__init__(**kwargs)
        self.pre_anchor_topk, self.bbox_thr, self.gamma, self.alpha = pre_anchor_topk, bbox_thr, gamma, alpha

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """positive_bag_loss and negative_bag_loss, scalars divided by objects and by anchors in bags."""
        logits = flatten_levels(raw[0], self.cls_out_channels)
        deltas = flatten_levels(raw[1], 4)
        anchors = torch.cat(self.prior_generator.grid_priors(map_sizes(raw[0]), logits.device))
        scores, positives, negatives = logits.sigmoid(), [], []
        for b, target in enumerate(targets):
            claimed = self.claimed(anchors, deltas[b], target)
            positives.append(self.bag_losses(anchors, scores[b], deltas[b], target).sum())
            negatives.append(self.free_losses(scores[b], claimed).sum())
        num_objects = sum(len(target.boxes) for target in targets)
        positive = torch.stack(positives).sum() / max(1, num_objects)
        return {
            # without objects the box tower still takes part, with gradient 0
            "positive_bag_loss": positive if num_objects else deltas.sum() * 0,
            "negative_bag_loss": torch.stack(negatives).sum() / max(1, num_objects * self.pre_anchor_topk),
        }

    @torch.no_grad()
    def claimed(self, anchors: Tensor, deltas: Tensor, target: Targets) -> Tensor:
        """How surely each anchor's box stands for an object of each class: (P, C) in [0, 1].

        Args:
            anchors: (P, 4).
            deltas: (P, 4).
            target: of the image.
        """
        found = deltas.new_zeros(self.cls_out_channels, len(anchors))
        if len(target.boxes):
            overlap = pairwise_iou(target.boxes, self.bbox_coder.decode(anchors, deltas))  # (G, P)
            best = overlap.amax(dim=1, keepdim=True).clamp(min=self.bbox_thr + _EPS)
            chance = ((overlap - self.bbox_thr) / (best - self.bbox_thr)).clamp(min=0, max=1)
            rows = target.labels[:, None].expand_as(chance)
            found = found.scatter_reduce(0, rows, chance, "amax")
        return found.T

    def bag_losses(self, anchors: Tensor, scores: Tensor, deltas: Tensor, target: Targets) -> Tensor:
        """Minus log likelihood (G,) of every object under its bag.

        Args:
            anchors: (P, 4).
            scores: (P, C) probabilities.
            deltas: (P, 4).
            target: of the image.
        """
        size = min(self.pre_anchor_topk, len(anchors))
        bag = pairwise_iou(target.boxes, anchors).topk(size, dim=1, sorted=False).indices  # (G, K)
        rows = bag.flatten()
        labels = target.labels[:, None].expand_as(bag).flatten()
        wanted = self.bbox_coder.encode(anchors[rows], target.boxes.repeat_interleave(size, dim=0))
        box_loss = self.loss_bbox(deltas[rows], wanted, reduction="none").sum(dim=-1)
        likelihood = (scores[rows, labels] * torch.exp(-box_loss)).reshape(bag.shape)
        weight = 1 / (1 - likelihood).clamp(min=_EPS)
        bag_likelihood = (weight / weight.sum(dim=1, keepdim=True) * likelihood).sum(dim=1)
        ones = torch.ones_like(bag_likelihood)
        return self.alpha * functional.binary_cross_entropy(bag_likelihood, ones, reduction="none")

    def free_losses(self, scores: Tensor, claimed: Tensor) -> Tensor:
        """Focal loss (P, C) of scores (P, C) towards 0, less where an anchor is claimed (P, C)."""
        chance = (scores * (1 - claimed)).clamp(min=_EPS, max=1 - _EPS)
        entropy = functional.binary_cross_entropy(chance, torch.zeros_like(chance), reduction="none")
        return (1 - self.alpha) * chance**self.gamma * entropy
