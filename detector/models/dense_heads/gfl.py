"""Generalised focal loss head: class and quality in one score, sides of the box as distributions.

Shapes: B images, L levels, S positive anchors of the batch, n + 1 bins per side (n = ``reg_max``).
Boxes: xyxy, pixels of the padded network input; distances in strides of the level.
Paper: Li et al., NeurIPS 2020, arXiv:2006.04388. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/gfl_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.init import InitRules
from detector.layers.scale import Scale
from detector.losses.gfocal import DistributionFocalLoss
from detector.losses.process_mean import process_mean
from detector.models.dense_heads.anchor_head import AnchorHead
from detector.models.dense_heads.anchor_targets import AnchorTargets, flatten_levels, map_sizes
from detector.models.dense_heads.atss import GROUP_NORM, anchor_centres
from detector.models.dense_heads.retina import add_towers, rare_class, through
from detector.ops.iou import aligned_iou
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import ConvSpec, NormSpec
from detector.targets.coders.distance_point import DistancePointBBoxCoder

RARE_CLASS = rare_class("gfl_cls")


class Integral(nn.Module):
    """Expected distance of a distribution over bins; the buffer ``project`` is in the checkpoint format."""

    project: Tensor

    def __init__(self, reg_max: int = 16) -> None:
        """``reg_max`` is the last bin."""
        super().__init__()
        self.register_buffer("project", torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 4 * (n + 1)) give distances (N, 4) in bins."""
        shares = x.reshape(-1, len(self.project)).softmax(dim=1)
        return functional.linear(shares, self.project.to(x)[None])[:, 0].reshape(-1, 4)


@dataclass(frozen=True)
class PositiveSides:
    """Predictions and targets of the S positive anchors, in strides of their level.

    Attributes:
        bins: (S, 4 * (n + 1)) logits.
        distances: (S, 4) wanted.
        boxes: (S, 4) predicted.
        gt_boxes: (S, 4).
        weights: (S,) best class score, without gradient.
        quality: (S,) IoU of prediction and ground truth, without gradient.
    """

    bins: Tensor
    distances: Tensor
    boxes: Tensor
    gt_boxes: Tensor
    weights: Tensor
    quality: Tensor


class GFLHead(AnchorHead):
    """Towers with group norm; joint score and four distributions of every cell."""

    cls_convs: nn.ModuleList
    reg_convs: nn.ModuleList

    def __init__(
        self,
        *,
        stacked_convs: int = 4,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = GROUP_NORM,
        loss_dfl: nn.Module | None = None,
        bbox_coder: DistancePointBBoxCoder | None = None,
        reg_max: int = 16,
        init_cfg: InitRules = RARE_CLASS,
        **kwargs: Any,
    ) -> None:
        """Describe the head; the rest as in ``AnchorHead``.

        Args:
            stacked_convs: blocks per tower.
            conv_cfg: convolution of the towers.
            norm_cfg: norm of the towers.
            loss_dfl: loss of the distributions.
            bbox_coder: between points and boxes.
            reg_max: largest distance, in strides.
            init_cfg: rules for the initial values.
            kwargs: the other arguments of ``AnchorHead``.

        Raises:
            ConfigError: more than one anchor per cell.
        """
        self.stacked_convs, self.conv_cfg, self.norm_cfg = stacked_convs, conv_cfg, norm_cfg
        self.reg_max = reg_max
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.point_coder = bbox_coder or DistancePointBBoxCoder()
        self.integral = Integral(reg_max)
        self.loss_dfl = DistributionFocalLoss(loss_weight=0.25) if loss_dfl is None else loss_dfl

    def _make_layers(self) -> None:
        if self.num_base_priors != 1:
            raise ConfigError(
                f"GFLHead: found {self.num_base_priors} anchors per cell; expected 1. "
                "Give anchor_generator one ratio and one scale."
            )
        add_towers(self, self.stacked_convs, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        self.gfl_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)
        self.gfl_reg = nn.Conv2d(self.feat_channels, 4 * (self.reg_max + 1), 3, padding=1)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives joint logits (B, C, h, w) and bin logits (B, 4 * (n + 1), h, w)."""
        bins = self.scales[level](self.gfl_reg(through(self.reg_convs, x))).float()
        return self.gfl_cls(through(self.cls_convs, x)), bins

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_dfl, scalars summed over levels.

        Scores are divided by the number of positives, boxes and distributions by the sum of the positives'
        scores.
        """
        sizes = map_sizes(raw[0])
        found = self.find_targets(sizes, targets, metas)
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1)
        bins = flatten_levels(raw[1], 4 * (self.reg_max + 1)).flatten(0, 1)
        sides = self.positive_sides(logits, bins, found, self.level_counts(sizes))
        total = process_mean(sides.weights.sum(), like=sides.weights)
        return self.side_losses(sides, total) | {"loss_cls": self.joint_loss(logits, sides, found)}

    def joint_loss(self, logits: Tensor, sides: PositiveSides, found: AnchorTargets) -> Tensor:
        """Scalar loss of the joint scores (B * P, C), divided by the number of positives."""
        labels = found.labels(len(logits), self.num_classes)
        weights = found.weights(len(logits), self.training_settings().pos_weight)
        quality = logits.new_zeros(len(logits))
        quality[found.pos_rows] = sides.quality.to(quality)
        count = process_mean(found.num_pos, like=logits)
        return self.loss_cls(logits, (labels, quality), weights, avg_factor=count)

    def positive_sides(
        self, logits: Tensor, bins: Tensor, found: AnchorTargets, counts: Sequence[int]
    ) -> PositiveSides:
        """What the positives predict and should predict.

        Args:
            logits: (B * P, C).
            bins: (B * P, 4 * (n + 1)).
            found: targets of the batch.
            counts: anchors per image of each level.
        """
        strides = self.row_strides(found.pos_rows, counts)
        points, gt_boxes = anchor_centres(found.pos_anchors) / strides, found.pos_gt_boxes / strides
        chosen = bins[found.pos_rows]
        boxes = self.point_coder.decode(points, self.integral(chosen))
        return PositiveSides(
            bins=chosen,
            distances=self.point_coder.encode(points, gt_boxes, max_dis=self.reg_max),
            boxes=boxes,
            gt_boxes=gt_boxes,
            weights=logits.detach()[found.pos_rows].sigmoid().amax(dim=1),
            quality=aligned_iou(boxes.detach(), gt_boxes),
        )

    def row_strides(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Stride (S, 1) in pixels of the level of each row over (B * P)."""
        ends = torch.tensor(counts, device=rows.device).cumsum(dim=0)
        strides = torch.tensor([s[0] for s in self.prior_generator.strides], device=rows.device)
        return strides[torch.searchsorted(ends, rows % sum(counts), right=True)][:, None]

    def side_losses(self, sides: PositiveSides, total: Tensor) -> dict[str, Tensor]:
        """loss_bbox and loss_dfl of the positives, divided by ``total``."""
        box_loss = self.loss_bbox(sides.boxes, sides.gt_boxes, sides.weights, avg_factor=1.0)
        dfl_loss = self.loss_dfl(
            sides.bins.reshape(-1, self.reg_max + 1),
            sides.distances.flatten(),
            sides.weights[:, None].expand(-1, 4).flatten(),
            avg_factor=4.0,
        )
        return {"loss_bbox": box_loss / total, "loss_dfl": dfl_loss / total}

    def decode_chosen(self, level: int, priors: Tensor, values: Tensor, hw: tuple[int, int]) -> Tensor:
        """Boxes (K, 4), clipped to ``hw``, of K anchors and their bin logits (K, 4 * (n + 1))."""
        distances = self.integral(values) * self.prior_generator.strides[level][0]
        return self.point_coder.decode(anchor_centres(priors), distances, max_hw=hw)
