"""ResNeSt: residual blocks whose 3 x 3 convolution is split into branches weighted by attention.

Shapes: B images, C channels, H x W map, R = radix branches; outputs as in ResNet.
Paper: Zhang et al., 2020, arXiv:2004.08955.
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/resnest.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import make_conv
from detector.layers.norm import add_norm
from detector.models.backbones.resnet import (
    BATCH_NORM,
    Architectures,
    BlockSettings,
    Residual,
    ResNetV1d,
)
from detector.structures.specs import ConvSpec, NormSpec


@dataclass(frozen=True)
class SplitSettings(BlockSettings):
    """What all split-attention blocks share."""

    radix: int = 2
    reduction_factor: int = 4
    avg_down_stride: bool = True


class SplitAttentionConv2d(nn.Module):
    """R grouped convolutions summed with weights that a pooled bottleneck gives per channel.

    With one branch the weights are a sigmoid (squeeze and excitation), else a softmax over the branches.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        radix: int = 2,
        reduction_factor: int = 4,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = BATCH_NORM,
    ) -> None:
        """``channels`` output channels of a 3 x 3 convolution; the attention has at least 32 channels."""
        super().__init__()
        self.radix, self.groups = radix, groups
        hidden = max(in_channels * radix // reduction_factor, 32)
        self.conv = make_conv(
            conv_cfg,
            in_channels,
            channels * radix,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=groups * radix,
            bias=False,
        )
        self._norm0 = add_norm(self, norm_cfg, channels * radix, 0)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Conv2d(channels, hidden, 1, groups=groups)
        self._norm1 = add_norm(self, norm_cfg, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels * radix, 1, groups=groups)

    def _weights(self, logits: Tensor) -> Tensor:
        """(B, C * R, 1, 1), group by group -> (B, R, C, 1, 1), branch by branch."""
        batch = len(logits)
        if self.radix == 1:
            return logits.sigmoid().unsqueeze(1)
        split = logits.view(batch, self.groups, self.radix, -1).transpose(1, 2).softmax(dim=1)
        return split.reshape(batch, self.radix, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H', W')."""
        x = self.relu(getattr(self, self._norm0)(self.conv(x)))
        branches = x.unflatten(1, (self.radix, -1))
        pooled = nn.functional.adaptive_avg_pool2d(branches.sum(dim=1), 1)
        hidden = self.relu(getattr(self, self._norm1)(self.fc1(pooled)))
        return torch.sum(self._weights(self.fc2(hidden)) * branches, dim=1)


class SplitBottleneck(Residual):
    """1 x 1, split-attention 3 x 3 and 1 x 1 convolutions; an average pooling may do the stride."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
        settings: SplitSettings,
    ) -> None:
        """``planes * 4`` output channels.

        Raises:
            ConfigError: plugins are asked for.
        """
        super().__init__(downsample, with_cp=settings.with_cp)
        norm, conv = settings.norm_cfg, settings.conv_cfg
        first, second = (1, stride) if settings.style == "pytorch" else (stride, 1)
        width = planes
        if settings.groups > 1:
            width = math.floor(planes * (settings.base_width / settings.base_channels)) * settings.groups
        pooled = settings.avg_down_stride and second > 1
        self.conv1 = make_conv(conv, in_channels, width, 1, stride=first, bias=False)
        self._norm1 = add_norm(self, norm, width, 1)
        self.conv2 = SplitAttentionConv2d(
            width,
            width,
            stride=1 if pooled else second,
            dilation=dilation,
            groups=settings.groups,
            radix=settings.radix,
            reduction_factor=settings.reduction_factor,
            conv_cfg=settings.middle_conv,
            norm_cfg=norm,
        )
        self.avd_layer = nn.AvgPool2d(3, second, padding=1) if pooled else None
        self.conv3 = make_conv(conv, width, planes * self.expansion, 1, bias=False)
        self._norm3 = add_norm(self, norm, planes * self.expansion, 3)
        if settings.plugins:
            raise ConfigError("ResNeSt: found plugins; expected none, its blocks have no place for them.")

    def branch(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, planes * 4, H', W'), before the sum."""
        x = self.conv2(self.relu(getattr(self, self._norm1)(self.conv1(x))))
        if self.avd_layer is not None:
            x = self.avd_layer(x)
        return getattr(self, self._norm3)(self.conv3(x))

    @property
    def last_norm(self) -> nn.Module:
        """The norm before the sum."""
        return getattr(self, self._norm3)


class ResNeSt(ResNetV1d):
    """ResNetV1d of split-attention blocks, depth 50, 101, 152 or 200."""

    architectures: ClassVar[Architectures] = {
        50: (SplitBottleneck, (3, 4, 6, 3)),
        101: (SplitBottleneck, (3, 4, 23, 3)),
        152: (SplitBottleneck, (3, 8, 36, 3)),
        200: (SplitBottleneck, (3, 24, 36, 3)),
    }

    def __init__(
        self,
        *,
        radix: int = 2,
        reduction_factor: int = 4,
        avg_down_stride: bool = True,
        **kwargs: object,
    ) -> None:
        """Describe the network.

        Args:
            radix: branches of the split-attention convolution.
            reduction_factor: how much narrower its attention is.
            avg_down_stride: a 3 x 3 average pooling after the convolution does the stride.
            kwargs: the arguments of ``ResNetV1d``.
        """
        self._split = (radix, reduction_factor, avg_down_stride)
        super().__init__(**kwargs)

    def block_settings(self, shared: BlockSettings) -> SplitSettings:
        """Add the settings of the split attention."""
        radix, reduction_factor, avg_down_stride = self._split
        return SplitSettings(
            **vars(shared), radix=radix, reduction_factor=reduction_factor, avg_down_stride=avg_down_stride
        )
