"""AutoAssign: every point in a box is positive and negative to a degree that the head learns.

Shapes: B images, L levels, C classes, P points of all levels, G boxes of one image.
Boxes: xyxy, pixels of the padded network input. Distances: left, top, right, bottom, pixels.
Paper: Zhu et al., 2020, arXiv:2007.03496. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/autoassign_head.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.init import normal_
from detector.losses.process_mean import process_mean
from detector.models.dense_heads.anchor_targets import flatten_levels, map_sizes
from detector.models.dense_heads.fcos import FCOSHead, RawOutputs
from detector.ops.iou import aligned_iou
from detector.structures.samples import ImageMeta, Targets
from detector.targets.assigners.center_region import contains
from detector.targets.assigners.regress_range import level_values
from detector.targets.priors.points import MlvlPointGenerator

EPS = 1e-12


class CenterPrior(nn.Module):
    """How likely points belong to a box by their place: a learned Gaussian per class."""

    def __init__(self, *, force_topk: bool, topk: int, num_classes: int, strides: Sequence[float]) -> None:
        """``force_topk`` gives a box without points inside the ``topk`` likeliest ones."""
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(num_classes, 2))
        self.sigma = nn.Parameter(torch.ones(num_classes, 2))
        self.force_topk, self.topk, self.strides = force_topk, topk, tuple(strides)

    def forward(self, points: Tensor, counts: Sequence[int], target: Targets) -> tuple[Tensor, Tensor]:
        """Weights (P, G), zero outside, and the mask (P, G) of what counts as inside.

        ``counts`` are the points of each level among the (P, 2) points.
        """
        boxes, labels = target.boxes, target.labels
        inside = contains(boxes, points)
        if len(boxes) == 0:
            return points.new_zeros(inside.shape), inside
        strides = level_values(counts, self.strides, points)[:, None, None]
        centre = ((boxes[:, :2] + boxes[:, 2:]) / 2)[None]
        squared = ((points[:, None] - centre) / strides - self.mean[labels][None]) ** 2
        weights = torch.exp(-squared / (2 * self.sigma[labels][None] ** 2)).prod(dim=2)
        if self.force_topk:
            best = weights.topk(min(self.topk, len(points)), dim=0).indices
            inside = inside | (torch.zeros_like(inside).scatter_(0, best, True) & ~inside.any(dim=0))
        return weights * inside, inside


def positive_loss(joint: Tensor, box_losses: Tensor, weights: Tensor) -> Tensor:
    """Sum over boxes of minus log of the weighted mean confidence of their points.

    Args:
        joint: (P, G) probability of each box's class.
        box_losses: (P, G).
        weights: (P, G) centre prior.
    """
    confidence = joint * torch.exp(-box_losses)
    shares = torch.exp(confidence * 3) * weights
    shares = shares / shares.sum(dim=0, keepdim=True).clamp(min=EPS)
    mean = (confidence * shares).sum(dim=0)
    return functional.binary_cross_entropy(mean, torch.ones_like(mean), reduction="sum")


def negative_loss(scores: Tensor, ious: Tensor, inside: Tensor, labels: Tensor) -> Tensor:
    """Sum over points and classes of the focal loss of scores that count as negative.

    Args:
        scores: (P, C) joint probabilities.
        ious: (P,) best IoU of each point's prediction with any box.
        inside: (P, G) points that belong to each box; there its class is negative as far as the box is bad.
        labels: (G,).
    """
    weights = torch.ones_like(scores)
    for mask, label in zip(inside.T, labels.tolist(), strict=True):  # the last of several boxes decides
        rows = torch.nonzero(mask).flatten()
        if len(rows):
            merit = 1 / (1 - ious[rows]).clamp(min=EPS)
            low, high = merit.min(), merit.max()
            weights[rows, label] = 1 - (merit - low + EPS) / (high - low + EPS)
    doubt = scores * weights
    entropy = functional.binary_cross_entropy(doubt, torch.zeros_like(doubt), reduction="none")
    return (doubt**2 * entropy).sum()


class AutoAssignHead(FCOSHead):
    """FCOS's layers with a centre prior; ``conv_centerness`` tells objects from background."""

    def __init__(
        self,
        *,
        force_topk: bool = False,
        topk: int = 9,
        pos_loss_weight: float = 0.25,
        neg_loss_weight: float = 0.75,
        center_loss_weight: float = 0.75,
        **kwargs: Any,
    ) -> None:
        """Describe the head; the rest as in ``FCOSHead``.

        Args:
            force_topk: boxes without points inside take the likeliest ones.
            topk: how many.
            pos_loss_weight: weight of loss_pos.
            neg_loss_weight: weight of loss_neg.
            center_loss_weight: weight of loss_center.
            **kwargs: arguments of ``FCOSHead``; the towers always have a bias.
        """
        super().__init__(**{**kwargs, "conv_bias": True})
        self.center_prior = CenterPrior(
            force_topk=force_topk, topk=topk, num_classes=self.num_classes, strides=self.strides
        )
        self.pos_loss_weight, self.neg_loss_weight = pos_loss_weight, neg_loss_weight
        self.center_loss_weight = center_loss_weight
        self.prior_generator = MlvlPointGenerator(strides=self.strides, offset=0)

    def init_weights(self) -> None:
        """Normal convolutions; scores start at 0.02, distances at four strides, the prior in the middle."""
        super().init_weights()
        normal_(self.conv_cls, 0.01, -math.log(0.98 / 0.02))
        normal_(self.conv_reg, 0.01, 4.0)
        nn.init.zeros_(self.center_prior.mean)
        nn.init.ones_(self.center_prior.sigma)

    def forward(self, feats: Sequence[Tensor]) -> RawOutputs:
        """L maps (B, C_in, h, w) give L logits (B, C, h, w), distances (B, 4, ..), objectness (B, 1, ..)."""
        scores, distances, objectness = [], [], []
        for x, scale, stride in zip(feats, self.scales, self.strides, strict=True):
            cls_feat, reg_feat = self.towers(x)
            scores.append(self.conv_cls(cls_feat))
            distances.append(scale(self.conv_reg(reg_feat)).float().clamp(min=0) * stride)
            objectness.append(self.conv_centerness(reg_feat))
        return scores, distances, objectness

    def loss(
        self, raw: RawOutputs, targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """loss_pos per box, loss_neg per unit of prior, loss_center per image; images may be empty."""
        scores = flatten_levels(raw[0], self.cls_out_channels).float().sigmoid()
        distances = flatten_levels(raw[1], 4)
        scores = scores * flatten_levels(raw[2], 1).float().sigmoid()
        levels = self.prior_generator.grid_priors(map_sizes(raw[0]), scores.device)
        points, counts = torch.cat(levels), [len(p) for p in levels]
        positive, negative, centre, total = [], [], [], scores.new_zeros(())
        for b, target in enumerate(targets):
            weights, inside = self.center_prior(points, counts, target)
            losses, ious = self._against_boxes(points, distances[b], target.boxes)
            positive.append(positive_loss(scores[b][:, target.labels], losses, weights))
            negative.append(negative_loss(scores[b], ious, inside, target.labels))
            mass = weights.sum()
            centre.append(len(target.boxes) / mass.clamp(min=EPS) if bool(inside.any()) else mass * 0)
            total = total + mass.detach()
        num_boxes = sum(len(t.boxes) for t in targets)
        # without boxes every part still takes part in the graph
        idle = (distances.sum() + self.center_prior.mean.sum() + self.center_prior.sigma.sum()) * 0
        return {
            "loss_pos": torch.stack(positive).sum()
            * self.pos_loss_weight
            / process_mean(num_boxes, like=scores)
            + (idle if num_boxes == 0 else 0),
            "loss_neg": torch.stack(negative).sum() * self.neg_loss_weight / process_mean(total, like=total),
            "loss_center": torch.stack(centre).mean() * self.center_loss_weight,
        }

    def _against_boxes(self, points: Tensor, distances: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Box loss (P, G) of every point's prediction with every box, and the best IoU (P,)."""
        shape = (len(points), len(boxes), 4)
        found = self.bbox_coder.decode(points, distances)[:, None].expand(shape).reshape(-1, 4)
        wanted = boxes[None].expand(shape).reshape(-1, 4)
        measure: Any = self.loss_bbox
        losses = measure.elementwise(found, wanted) * measure.loss_weight
        if len(boxes) == 0:
            return losses.reshape(shape[:2]), points.new_zeros(len(points))
        ious = aligned_iou(found.detach(), wanted).reshape(shape[:2])
        return losses.reshape(shape[:2]), ious.amax(dim=1)
