"""YOLOF's neck: one map, residual blocks of growing dilation.

Shapes: B images, C_in and C_out channels, h x w cells.
Paper: Chen et al., CVPR 2021, arXiv:2103.09460. Attribute names are the checkpoint format (MMDetection 2.28,
models/necks/dilated_encoder.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detector.layers.conv import ConvModule
from detector.layers.init import fill, normal_
from detector.structures.specs import InitSpec, NormSpec

BATCH_NORM = NormSpec(type="BN")


class DilatedBottleneck(nn.Module):
    """1x1, dilated 3x3 and 1x1 blocks added to their input."""

    def __init__(
        self, in_channels: int, mid_channels: int, dilation: int, *, norm_cfg: NormSpec = BATCH_NORM
    ) -> None:
        """``dilation`` of the 3x3 block in cells."""
        super().__init__()
        self.conv1 = ConvModule(in_channels, mid_channels, 1, norm_cfg=norm_cfg)
        self.conv2 = ConvModule(
            mid_channels, mid_channels, 3, padding=dilation, dilation=dilation, norm_cfg=norm_cfg
        )
        self.conv3 = ConvModule(mid_channels, in_channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.conv3(self.conv2(self.conv1(x))) + x


class DilatedEncoder(nn.Module):
    """Lateral and output convolution of a feature pyramid, then the residual blocks."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        block_mid_channels: int,
        num_residual_blocks: int,
        block_dilations: Sequence[int],
    ) -> None:
        """Describe the neck.

        Args:
            in_channels: channels of the map.
            out_channels: channels of the result.
            block_mid_channels: channels inside the blocks.
            num_residual_blocks: number of blocks.
            block_dilations: dilation of each block.
        """
        super().__init__()
        self.lateral_conv = nn.Conv2d(in_channels, out_channels, 1)
        self.lateral_norm = nn.BatchNorm2d(out_channels)
        self.fpn_conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.fpn_norm = nn.BatchNorm2d(out_channels)
        self.dilated_encoder_blocks = nn.Sequential(
            *[
                DilatedBottleneck(out_channels, block_mid_channels, block_dilations[i])
                for i in range(num_residual_blocks)
            ]
        )

    def init_weights(self) -> None:
        """Caffe2's Xavier in front, normal weights in the blocks, norms at one."""
        for layer in (self.lateral_conv, self.fpn_conv):
            fill(layer, InitSpec(type="Caffe2Xavier"))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                fill(module, InitSpec(type="Constant", val=1))
        for module in self.dilated_encoder_blocks.modules():
            if isinstance(module, nn.Conv2d):
                normal_(module, 0.01)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """The last of the maps (B, C_in, h, w) gives one map (B, C_out, h, w)."""
        x = self.lateral_norm(self.lateral_conv(inputs[-1]))
        return (self.dilated_encoder_blocks(self.fpn_norm(self.fpn_conv(x))),)
