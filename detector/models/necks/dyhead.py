"""Dynamic head: attention over levels, places and channels, block after block.

Shapes: B images, L levels, C channels, level l of H_l x W_l.
Paper: Dai et al., CVPR 2021, arXiv:2106.08322 (dynamic ReLU: Chen et al., ECCV 2020, arXiv:2003.10027).
Attribute names
are the checkpoint format (MMDetection 2.28, models/necks/dyhead.py and models/utils/se_layer.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.conv import ConvModule
from detector.layers.deform_conv import ModulatedDeformConv2d
from detector.layers.init import InitRules, apply_rules, normal_
from detector.layers.norm import make_norm
from detector.structures.specs import NormSpec

GROUP_NORM = NormSpec(type="GN", num_groups=16)
_OFFSETS = 18  # y and x of 3 x 3 kernel positions; 9 weights follow


def _fitted(values: Tensor, size: tuple[int, int]) -> Tensor:
    """The first numbers of each image's (V, H, W) values, read as (V, *size).

    The reference hands offsets of a level to a convolution of the next smaller one, whose kernel reads
    them as if they had its own size. Trained weights rely on it.
    """
    if tuple(values.shape[-2:]) == size:
        return values
    count = values.shape[1]
    return values.flatten(1)[:, : count * size[0] * size[1]].reshape(-1, count, *size)


class DyDCNv2(nn.Module):
    """Modulated deformable convolution with offsets from elsewhere, then a norm."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        """3x3 kernel."""
        super().__init__()
        self.stride = stride
        self.conv = ModulatedDeformConv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm = make_norm(GROUP_NORM, out_channels)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """(B, C, H, W) gives (B, C_out, H / stride, W / stride); offsets and mask of that size or larger."""
        size = (-(-x.shape[2] // self.stride), -(-x.shape[3] // self.stride))
        return self.norm(self.conv(x.contiguous(), _fitted(offset, size), _fitted(mask, size)))


class DyReLU(nn.Module):
    """Larger of two lines per channel, whose slopes and offsets depend on the map."""

    def __init__(self, channels: int, *, ratio: int = 4) -> None:
        """``ratio`` is how much narrower the hidden layer is."""
        super().__init__()
        self.conv1 = ConvModule(channels, channels // ratio, 1)
        self.conv2 = ConvModule(channels // ratio, channels * 4, 1, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        pooled = functional.adaptive_avg_pool2d(x, 1)
        shares = functional.hardsigmoid(self.conv2(self.conv1(pooled))) - 0.5
        slope, offset, other_slope, other_offset = shares.chunk(4, dim=1)
        return torch.maximum(x * (slope * 2 + 1) + offset, x * (other_slope * 2) + other_offset)


class DyHeadBlock(nn.Module):
    """One round of attention over levels, places and channels."""

    def __init__(self, in_channels: int, out_channels: int, *, zero_init_offset: bool = True) -> None:
        """``zero_init_offset`` starts with regular convolutions."""
        super().__init__()
        self.zero_init_offset = zero_init_offset
        self.spatial_conv_high = DyDCNv2(in_channels, out_channels)
        self.spatial_conv_mid = DyDCNv2(in_channels, out_channels)
        self.spatial_conv_low = DyDCNv2(in_channels, out_channels, stride=2)
        self.spatial_conv_offset = nn.Conv2d(in_channels, 27, 3, padding=1)
        self.scale_attn_module = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(out_channels, 1, 1), nn.ReLU(inplace=True), nn.Hardsigmoid()
        )
        self.task_attn_module = DyReLU(out_channels)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal convolutions with std 0.01, offsets zero where asked for."""
        for module in self.modules():
            if isinstance(module, ModulatedDeformConv2d):
                module.init_weights()
            elif isinstance(module, nn.Conv2d):
                normal_(module, 0.01)
        if self.zero_init_offset:
            nn.init.zeros_(self.spatial_conv_offset.weight)

    def forward(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """L maps (B, C, H_l, W_l) give L maps (B, C_out, H_l, W_l)."""
        return [self._level(feats, i) for i in range(len(feats))]

    def _level(self, feats: Sequence[Tensor], i: int) -> Tensor:
        """One level from itself and its neighbours."""
        predicted = self.spatial_conv_offset(feats[i])
        offset, mask = predicted[:, :_OFFSETS], predicted[:, _OFFSETS:].sigmoid()
        found = [self.spatial_conv_mid(feats[i], offset, mask)]
        if i > 0:
            found.append(self.spatial_conv_low(feats[i - 1], offset, mask))
        if i < len(feats) - 1:
            high = self.spatial_conv_high(feats[i + 1], offset, mask)
            size = feats[i].shape[-2:]
            found.append(functional.interpolate(high, size=size, mode="bilinear", align_corners=True))
        total = found[0] * self.scale_attn_module(found[0])
        for x in found[1:]:
            total = total + x * self.scale_attn_module(x)
        return self.task_attn_module(total / len(found))


class DyHead(nn.Module):
    """A neck of ``DyHeadBlock``."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 6,
        zero_init_offset: bool = True,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the neck.

        Args:
            in_channels: channels of every level.
            out_channels: channels of every output.
            num_blocks: rounds.
            zero_init_offset: start with regular convolutions.
            init_cfg: rules for the initial values, after the blocks' own.
        """
        super().__init__()
        self.init_cfg = init_cfg
        widths = [in_channels] + [out_channels] * (num_blocks - 1)
        self.dyhead_blocks = nn.Sequential(
            *[DyHeadBlock(width, out_channels, zero_init_offset=zero_init_offset) for width in widths]
        )

    def init_weights(self) -> None:
        """The blocks' values, then ``init_cfg``."""
        blocks: Any = self.dyhead_blocks
        for block in blocks:
            block.init_weights()
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L maps (B, C, H_l, W_l) give L maps (B, C_out, H_l, W_l)."""
        return tuple(self.dyhead_blocks(feats))
