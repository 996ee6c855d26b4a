"""A convolution per channel, then one across channels.

Shapes: B images, C_in and C_out channels, H x W feature map.
Paper: Howard et al., 2017, arXiv:1704.04861. Attribute names are the checkpoint format (mmcv 1.7,
cnn/bricks/depthwise_separable_conv_module.py).
"""

from __future__ import annotations

from torch import Tensor, nn

from detector.layers.conv import RELU, ConvModule
from detector.structures.specs import ActSpec, ConvSpec, NormSpec


class DepthwiseSeparableConvModule(nn.Module):
    """Depthwise block of the given kernel, then a pointwise block; both with norm and activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool | None = None,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        act_cfg: ActSpec | None = RELU,
    ) -> None:
        """``bias`` None means: only without a norm."""
        super().__init__()
        self.depthwise_conv = ConvModule(
            in_channels,
            in_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=bias,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.pointwise_conv = ConvModule(
            in_channels,
            out_channels,
            1,
            bias=bias,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        return self.pointwise_conv(self.depthwise_conv(x))
