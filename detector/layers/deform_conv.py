"""Deformable convolution, version 1 and 2, as bare operators and as packs that predict their own offsets.

Shapes: B images, C_in and C_out channels, H x W map, k x k kernel, D offset groups. Offsets are in pixels of
the input map, (B, D * 2 * k * k, H', W'): for each group the rows (y, x) of each kernel position.
Papers: Dai et al., ICCV 2017, arXiv:1703.06211; Zhu et al., CVPR 2019, arXiv:1811.11168 (modulated).
Attribute names are the checkpoint format (mmcv 1.7 ops/deform_conv.py, ops/modulated_deform_conv.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from detector.errors import ConfigError


class _Deformable(nn.Module):
    """Weight, bias and geometry of a deformable convolution."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
    ) -> None:
        """``deform_groups`` parts of the input channels have offsets of their own; the rest as in Conv2d."""
        super().__init__()
        if in_channels % groups or out_channels % groups or in_channels % deform_groups:
            raise ConfigError(
                f"deformable convolution: {in_channels} to {out_channels} channels do not divide into "
                f"groups={groups} and deform_groups={deform_groups}; change one of them."
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = (kernel_size, kernel_size), (stride, stride)
        self.padding, self.dilation = (padding, padding), (dilation, dilation)
        self.deform_groups = deform_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        return deform_conv2d(
            x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask
        )  # groups follow from the shapes

    def _offset_conv(self, values: int) -> nn.Conv2d:
        """Convolution giving ``values`` numbers per kernel position and offset group, zero at first."""
        conv = nn.Conv2d(
            self.in_channels,
            self.deform_groups * values * math.prod(self.kernel_size),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        return zero_(conv)


@torch.no_grad()
def zero_(conv: nn.Conv2d) -> nn.Conv2d:
    """Set a convolution's weight and bias to zero and return it."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class DeformConv2d(_Deformable):
    """Version 1 with given offsets: samples the input bilinearly at shifted kernel positions.

    It has no bias. Attribute names are the checkpoint format (mmcv 1.7).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
    ) -> None:
        """Arguments as in Conv2d; ``deform_groups`` parts of the channels have offsets of their own.

        Raises:
            ConfigError: a bias is asked for, or the groups do not divide the channels.
        """
        if bias:
            raise ConfigError(
                "DCN: found bias=True; version 1 has no bias. Give the layer a norm, or use type='DCNv2'."
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            deform_groups=deform_groups,
        )
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """(B, C_in, H, W) and offsets (B, D * 2 * k * k, H', W') give (B, C_out, H', W')."""
        return self._convolve(x, offset, None)


class DeformConv2dPack(DeformConv2d):
    """Version 1 that predicts its offsets with ``conv_offset``; stands where a Conv2d stands.

    Attribute names are the checkpoint format (mmcv 1.7, layout version 2).
    """

    _version = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
    ) -> None:
        """Arguments as in ``DeformConv2d``."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            deform_groups=deform_groups,
            bias=bias,
        )
        self.conv_offset = self._offset_conv(2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        return self._convolve(x, self.conv_offset(x), None)


class ModulatedDeformConv2d(_Deformable):
    """Version 2 with given offsets and weights of the samples.

    Attribute names are the checkpoint format (mmcv 1.7).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        """Arguments as in Conv2d; ``deform_groups`` parts of the channels have offsets of their own."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            deform_groups=deform_groups,
            bias=bias,
        )
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Uniform weights within 1 / sqrt(C_in * k * k), zero bias."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """(B, C_in, H, W), offsets and a mask (B, D * k * k, H', W') in 0..1 give (B, C_out, H', W')."""
        return self._convolve(x, offset, mask)


class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    """Version 2 that predicts offsets and mask with ``conv_offset``; stands where a Conv2d stands.

    Attribute names are the checkpoint format (mmcv 1.7, layout version 2).
    """

    _version = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        """Arguments as in ``ModulatedDeformConv2d``."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            deform_groups=deform_groups,
            bias=bias,
        )
        self.conv_offset = self._offset_conv(3)

    def init_weights(self) -> None:
        """Uniform weights, zero bias and offsets, every sample at half weight."""
        super().init_weights()
        if hasattr(self, "conv_offset"):  # not yet during construction
            zero_(self.conv_offset)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        predicted = self.conv_offset(x)
        cut = predicted.shape[1] // 3 * 2  # two thirds are offsets, the last third is the mask
        return self._convolve(x, predicted[:, :cut], predicted[:, cut:].sigmoid())
