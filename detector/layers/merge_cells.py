"""Cells of searched pyramids: two maps are brought to one size and merged.

Shapes: B images, C channels; maps of h x w and h' x w', output H x W.
Papers: Ghiasi et al., CVPR 2019, arXiv:1904.07392; Wang et al., CVPR 2020, arXiv:1906.04423.
Attribute names are the checkpoint format (mmcv 1.7 ops/merge_cells.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.conv import ConvModule
from detector.layers.pre_activation import PreActConvModule
from detector.structures.specs import ConvSpec, NormSpec


def resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Bring (B, C, h, w) to ``size``: interpolate to enlarge, max-pool (with zero padding) to shrink."""
    if x.shape[2:] == size:
        return x
    if x.shape[2] < size[0] or x.shape[3] < size[1]:
        return functional.interpolate(x, size=size, mode=mode)
    down, right = (-length % wanted for length, wanted in zip(x.shape[2:], size, strict=True))
    if down or right:
        x = functional.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
    kernel = (x.shape[2] // size[0], x.shape[3] // size[1])
    return functional.max_pool2d(x, kernel, stride=kernel)


class MergeCell(nn.Module):
    """Optional convolution of each input, merge, optional activation - convolution - norm."""

    def __init__(
        self,
        merged_channels: int = 256,
        out_channels: int = 256,
        *,
        with_out_conv: bool = True,
        out_kernel_size: int = 3,
        out_groups: int = 1,
        out_bias: bool = True,
        out_norm_cfg: NormSpec | None = None,
        with_input1_conv: bool = False,
        with_input2_conv: bool = False,
        input_conv_cfg: ConvSpec | None = None,
        input_norm_cfg: NormSpec | None = None,
        upsample_mode: str = "nearest",
    ) -> None:
        """``merged_channels`` after the merge, ``out_channels`` of the inputs and the output."""
        super().__init__()
        self.upsample_mode = upsample_mode
        self.out_conv = (
            PreActConvModule(
                merged_channels,
                out_channels,
                out_kernel_size,
                padding=out_kernel_size // 2,
                groups=out_groups,
                bias=out_bias,
                norm_cfg=out_norm_cfg,
            )
            if with_out_conv
            else None
        )
        self.input1_conv, self.input2_conv = (
            ConvModule(
                out_channels,
                out_channels,
                3,
                padding=1,
                bias=True,
                conv_cfg=input_conv_cfg,
                norm_cfg=input_norm_cfg,
            )
            if wanted
            else None
            for wanted in (with_input1_conv, with_input2_conv)
        )

    def merge(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Two maps (B, C, H, W) -> (B, merged_channels, H, W), a new tensor."""
        raise NotImplementedError

    def forward(self, x1: Tensor, x2: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Two maps of C channels -> (B, out_channels, *size); the larger one's size by default."""
        wanted = tuple(max(x1.shape[2:], x2.shape[2:])) if size is None else tuple(size)
        x1, x2 = (
            resize(x if conv is None else conv(x), wanted, self.upsample_mode)  # type: ignore[arg-type]
            for x, conv in ((x1, self.input1_conv), (x2, self.input2_conv))
        )
        merged = self.merge(x1, x2)
        return merged if self.out_conv is None else self.out_conv(merged)


class SumCell(MergeCell):
    """Sum of the maps."""

    def merge(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Sum."""
        return x1 + x2


class ConcatCell(MergeCell):
    """Maps one behind the other; ``merged_channels`` is twice ``out_channels``."""

    def merge(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Join channels."""
        return torch.cat([x1, x2], dim=1)


class GlobalPoolingCell(MergeCell):
    """The second map plus the first one, weighted per channel by the second one's mean."""

    def merge(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Gated sum."""
        return x2 + functional.adaptive_avg_pool2d(x2, 1).sigmoid() * x1
