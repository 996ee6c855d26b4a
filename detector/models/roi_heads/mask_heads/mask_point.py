"""Mask point head: the mask at single points, from fine features and the coarse mask there.

Shapes: K regions, C classes, P points of each region, h x w mask pixels.
Points: x, y as fractions of the region.
Paper: Kirillov et al., PointRend, CVPR 2020, arXiv:1912.08193. Attribute names are the checkpoint format
(MMDetection 2.28, mask_heads/mask_point_head.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import RELU, make_activation
from detector.layers.init import InitRules, apply_rules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.ops.point_sample import point_sample
from detector.structures.specs import ActSpec, ConvSpec, InitSpec, NormSpec

CONV1D = ConvSpec(type="Conv1d")
POINT_INIT = InitSpec(type="Normal", std=0.001, override={"name": "fc_logits"})


def uncertainty(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the distance (K, ...) of the own class's logits (K, C or 1, ...) from zero."""
    if logits.shape[1] == 1:
        return -logits[:, 0].abs()
    return -logits[torch.arange(len(labels), device=labels.device), labels].abs()


def uncertain_points(
    logits: Tensor,
    labels: Tensor,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
) -> Tensor:
    """Random points, mostly where the mask is least certain.

    Args:
        logits: (K, C or 1, h, w) of the coarse mask.
        labels: (K,) int64.
        num_points: P.
        oversample_ratio: points drawn for each one kept.
        importance_sample_ratio: share of the points kept for their uncertainty; the others are drawn anew.

    Returns:
        (K, P, 2); draws from torch's global CPU generator.
    """
    count = int(importance_sample_ratio * num_points)
    drawn = torch.rand(len(logits), int(num_points * oversample_ratio), 2).to(logits)
    doubt = uncertainty(point_sample(logits, drawn), labels)
    rows = doubt.topk(count, dim=1).indices
    chosen = drawn.gather(1, rows[..., None].expand(-1, -1, 2))
    if count == num_points:
        return chosen
    return torch.cat((chosen, torch.rand(len(logits), num_points - count, 2).to(logits)), dim=1)


def uncertain_pixels(logits: Tensor, labels: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
    """The least certain pixels of (K, C or 1, h, w) masks: flat indices (K, P) and points (K, P, 2)."""
    height, width = logits.shape[-2:]
    doubt = uncertainty(logits, labels).flatten(1)
    rows = doubt.topk(min(num_points, height * width), dim=1).indices
    x_step, y_step = 1.0 / width, 1.0 / height
    x = x_step / 2 + (rows % width).float() * x_step
    y = y_step / 2 + (rows // width).float() * y_step
    return rows, torch.stack((x, y), dim=2)


class PointLayer(nn.Module):
    """A convolution over points of width 1 and an activation."""

    def __init__(self, in_channels: int, out_channels: int, act_cfg: ActSpec) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, 1)
        self.activate = make_activation(act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(K, in_channels, P) -> (K, out_channels, P)."""
        return self.activate(self.conv(x))


class MaskPointHead(nn.Module):
    """Layers shared by all points; the coarse mask enters each."""

    def __init__(
        self,
        *,
        num_classes: int,
        num_fcs: int = 3,
        in_channels: int = 256,
        fc_channels: int = 256,
        class_agnostic: bool = False,
        coarse_pred_each_layer: bool = True,
        conv_cfg: ConvSpec = CONV1D,
        norm_cfg: NormSpec | None = None,
        act_cfg: ActSpec = RELU,
        loss_point: CrossEntropyLoss | None = None,
        init_cfg: InitRules = POINT_INIT,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: C, without background.
            num_fcs: hidden layers.
            in_channels: channels of the fine features.
            fc_channels: channels of the hidden layers.
            class_agnostic: one mask per region.
            coarse_pred_each_layer: give the coarse mask to each layer instead of the first only.
            conv_cfg: must be Conv1d.
            norm_cfg: must be None.
            act_cfg: activation of the hidden layers.
            loss_point: loss of the region's own class; None is sigmoid cross entropy.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        if conv_cfg.type != "Conv1d" or norm_cfg is not None:
            raise ConfigError(
                f"MaskPointHead: found conv_cfg type {conv_cfg.type!r}, norm_cfg {norm_cfg}; expected "
                "'Conv1d' and None, the only layers of this head."
            )
        self.class_agnostic, self.coarse_each_layer = class_agnostic, coarse_pred_each_layer
        self.loss_point = CrossEntropyLoss(use_mask=True) if loss_point is None else loss_point
        self.init_cfg = init_cfg
        width = in_channels + num_classes
        self.fcs = nn.ModuleList()
        for _ in range(num_fcs):
            self.fcs.append(PointLayer(width, fc_channels, act_cfg))
            width = fc_channels + (num_classes if coarse_pred_each_layer else 0)
        self.fc_logits = nn.Conv1d(width, 1 if class_agnostic else num_classes, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Fine features (K, in_channels, P) and coarse logits (K, C, P) give logits (K, C or 1, P)."""
        x = torch.cat((fine, coarse), dim=1)
        for fc in self.fcs:
            x = fc(x)
            if self.coarse_each_layer:
                x = torch.cat((x, coarse), dim=1)
        return self.fc_logits(x)

    def loss(self, logits: Tensor, wanted: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scalar loss_point of (K, C or 1, P) against values (K, P) in [0, 1]; 0 without regions."""
        if len(logits) == 0:
            return {"loss_point": logits.sum()}
        channel = torch.zeros_like(labels) if self.class_agnostic else labels
        return {"loss_point": self.loss_point.mask_loss(logits, wanted, channel)}

    @torch.no_grad()
    def init_weights(self) -> None:
        """Kaiming hidden layers, then ``init_cfg`` (normal logits of std 0.001)."""
        fcs: Any = self.fcs
        for fc in fcs:
            nn.init.kaiming_normal_(fc.conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(fc.conv.bias)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
