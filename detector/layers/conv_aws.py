"""Adaptive weight standardisation: a standardised kernel that can still equal a pretrained one.

Shapes: B images, C_in and C_out channels, H x W map.
Paper: Qiao et al., CVPR 2021, arXiv:2006.02334 (DetectoRS); Qiao et al., 2019, arXiv:1903.10520.
Attribute names are the checkpoint format (mmcv 1.7 cnn/bricks/conv_ws.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-5


class ConvAWS2d(nn.Conv2d):
    """Convolution with ``weight_gamma * standardised weight + weight_beta``, per output channel.

    The two buffers take part in no training. A checkpoint without them gets the spread and the mean of its
    own weight (``detector/checkpoint/upgrades.py``), which leaves the convolution as it was.
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
    ) -> None:
        """Arguments as in Conv2d."""
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
        self.weight_gamma: Tensor
        self.weight_beta: Tensor
        self.register_buffer("weight_gamma", torch.ones(out_channels, 1, 1, 1))
        self.register_buffer("weight_beta", torch.zeros(out_channels, 1, 1, 1))

    def standardised_weight(self) -> Tensor:
        """The kernel in use, (C_out, C_in / groups, k, k)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return self.weight_gamma * ((self.weight - mean) / (variance + EPS).sqrt()) + self.weight_beta

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        return functional.conv2d(
            x, self.standardised_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups
        )
