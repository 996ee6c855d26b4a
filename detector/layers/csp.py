"""Cross stage partial blocks of YOLOX and YOLOv5.

Shapes: B images, C_in and C_out channels, H x W feature map.
Paper: Wang et al., CVPR workshops 2020, arXiv:1911.11929. Attribute names are the checkpoint format
(MMDetection 2.28, models/utils/csp_layer.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detector.layers.conv import ConvModule
from detector.layers.depthwise import DepthwiseSeparableConvModule
from detector.structures.specs import ActSpec, ConvSpec, InitSpec, NormSpec

YOLO_BN = NormSpec(type="BN", momentum=0.03, eps=0.001)
SWISH = ActSpec(type="Swish")
YOLO_INIT = InitSpec(
    type="Kaiming",
    layer="Conv2d",
    a=math.sqrt(5),
    distribution="uniform",
    mode="fan_in",
    nonlinearity="leaky_relu",
)


def spatial_conv(
    in_channels: int,
    out_channels: int,
    *,
    use_depthwise: bool,
    stride: int = 1,
    bias: bool | None = None,
    conv_cfg: ConvSpec | None,
    norm_cfg: NormSpec | None,
    act_cfg: ActSpec | None,
) -> nn.Module:
    """A 3x3 block, depthwise separable where asked for."""
    kind = DepthwiseSeparableConvModule if use_depthwise else ConvModule
    return kind(
        in_channels,
        out_channels,
        3,
        stride=stride,
        padding=1,
        bias=bias,
        conv_cfg=conv_cfg,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    )


class DarknetBottleneck(nn.Module):
    """A 1x1 and a 3x3 block, added to their input where the channels allow."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: float = 0.5,
        add_identity: bool = True,
        use_depthwise: bool = False,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = YOLO_BN,
        act_cfg: ActSpec | None = SWISH,
    ) -> None:
        """``expansion`` is hidden over output channels."""
        super().__init__()
        hidden = int(out_channels * expansion)
        self.conv1 = ConvModule(in_channels, hidden, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv2 = spatial_conv(
            hidden,
            out_channels,
            use_depthwise=use_depthwise,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.add_identity = add_identity and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        out = self.conv2(self.conv1(x))
        return out + x if self.add_identity else out


class CSPLayer(nn.Module):
    """Half of the channels pass through bottlenecks, the other half goes around them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expand_ratio: float = 0.5,
        num_blocks: int = 1,
        add_identity: bool = True,
        use_depthwise: bool = False,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = YOLO_BN,
        act_cfg: ActSpec | None = SWISH,
    ) -> None:
        """``expand_ratio`` is the channels of each path over the output channels."""
        super().__init__()
        hidden = int(out_channels * expand_ratio)

        def pointwise(a: int, b: int) -> ConvModule:
            return ConvModule(a, b, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)

        self.main_conv = pointwise(in_channels, hidden)
        self.short_conv = pointwise(in_channels, hidden)
        self.final_conv = pointwise(2 * hidden, out_channels)
        self.blocks = nn.Sequential(
            *[
                DarknetBottleneck(
                    hidden,
                    hidden,
                    expansion=1.0,
                    add_identity=add_identity,
                    use_depthwise=use_depthwise,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                )
                for _ in range(num_blocks)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return self.final_conv(torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), dim=1))
