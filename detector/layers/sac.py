"""Switchable atrous convolution: one kernel at two dilations, mixed per position.

Shapes: B images, C_in and C_out channels, H x W map with H, W >= 3.
Paper: Qiao et al., CVPR 2021, arXiv:2006.02334 (DetectoRS).
Attribute names are the checkpoint format (mmcv 1.7 ops/saconv.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import deform_conv2d

from detector.errors import ConfigError
from detector.layers.conv_aws import ConvAWS2d
from detector.layers.deform_conv import zero_

RATE = 3  # the large branch dilates and pads three times as far
OFFSETS = 18  # (y, x) of the nine positions of a 3 x 3 kernel


class SAConv2d(ConvAWS2d):
    """Mixes a convolution and its dilated twin with a switch, between two global contexts.

    The twin's kernel differs by ``weight_diff``, zero at first. A ``bias`` is held but, as in the reference,
    has no effect: ``post_context`` has one.
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
        bias: bool = True,
        use_deform: bool = False,
    ) -> None:
        """Arguments as in Conv2d; ``use_deform`` predicts offsets for both branches.

        Raises:
            ConfigError: ``use_deform`` with another kernel than 3 x 3.
        """
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        if use_deform and kernel_size != 3:
            raise ConfigError(f"SAC: use_deform needs kernel_size 3; found {kernel_size}.")
        self.use_deform = use_deform
        self.switch = nn.Conv2d(in_channels, 1, 1, stride=stride)
        self.weight_diff = nn.Parameter(torch.zeros_like(self.weight))
        self.pre_context = nn.Conv2d(in_channels, in_channels, 1)
        self.post_context = nn.Conv2d(out_channels, out_channels, 1)
        if use_deform:
            self.offset_s = nn.Conv2d(in_channels, OFFSETS, 3, padding=1, stride=stride)
            self.offset_l = nn.Conv2d(in_channels, OFFSETS, 3, padding=1, stride=stride)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start as an ordinary convolution: switch at one, contexts, offsets and difference at zero."""
        for conv in (self.switch, self.pre_context, self.post_context):
            zero_(conv)
        for conv in (self.offset_s, self.offset_l) if self.use_deform else ():
            zero_(conv)
        nn.init.ones_(self.switch.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.weight_diff)

    def _branch(self, x: Tensor, weight: Tensor, offset: Tensor | None, rate: int) -> Tensor:
        padding = (int(self.padding[0]) * rate, int(self.padding[1]) * rate)
        dilation = (self.dilation[0] * rate, self.dilation[1] * rate)
        if offset is None:
            return functional.conv2d(x, weight, None, self.stride, padding, dilation, self.groups)
        return deform_conv2d(x, offset, weight, None, self.stride, padding, dilation)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        x = x + self.pre_context(functional.adaptive_avg_pool2d(x, 1))
        local = functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
        switch = self.switch(local)
        weight = self.standardised_weight()
        offsets = (self.offset_s(local), self.offset_l(local)) if self.use_deform else (None, None)
        small = self._branch(x, weight, offsets[0], 1)
        large = self._branch(x, weight + self.weight_diff, offsets[1], RATE)
        out = switch * small + (1 - switch) * large
        return out + self.post_context(functional.adaptive_avg_pool2d(out, 1))
