"""NAS-FCOS's neck: cells that merge two maps, in a searched order.

Shapes: B images, C_i channels of backbone level i, C channels of every output, h x w cells.
Paper: Wang et al., CVPR 2020, arXiv:1906.04423. Attribute names are the checkpoint format (MMDetection 2.28,
models/necks/nasfcos_fpn.py; mmcv 1.7, ops/merge_cells.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import fill
from detector.layers.norm import make_norm
from detector.structures.specs import ConvSpec, InitSpec, NormSpec

BATCH_NORM = NormSpec(type="BN")
# name of each cell: c, its two inputs among the maps made so far; and whether the second has a convolution
CELLS = (
    ("c22_1", True),
    ("c22_2", True),
    ("c32", False),
    ("c02", False),
    ("c42", True),
    ("c36", True),
    ("c61", True),
)


class NormActConv(nn.Module):
    """Batch norm, ReLU, then a grouped 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int) -> None:
        """``groups`` of the convolution."""
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
        self.bn = make_norm(BATCH_NORM, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        return self.conv(functional.relu(self.bn(x)))


class ActConv(nn.Module):
    """Perhaps ReLU, then a 3x3 convolution of stride 2."""

    def __init__(self, channels: int, *, activate: bool) -> None:
        """``activate`` puts ReLU in front."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, ceil(h / 2), ceil(w / 2))."""
        return self.conv(functional.relu(x) if self.activate else x)


def fit(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) at ``size``: nearest cells where it grows, else maxima of equal zero-padded windows."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    if (height, width) == size:
        return x
    if (height, width) < size:
        return functional.interpolate(x, size=size, mode="nearest")
    rows, columns = math.ceil(height / size[0]), math.ceil(width / size[1])
    down, right = rows * size[0] - height, columns * size[1] - width
    if down or right:
        # the order of the reference: columns in front and behind, then rows
        x = functional.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
    return functional.max_pool2d(x, (rows, columns), (rows, columns))


class ConcatCell(nn.Module):
    """Two maps side by side, mixed channel by channel."""

    def __init__(
        self,
        channels: int,
        *,
        with_input2_conv: bool,
        input_conv_cfg: ConvSpec | None = None,
        input_norm_cfg: NormSpec | None = None,
    ) -> None:
        """``with_input2_conv`` gives the second input a convolution too; the settings are for both."""
        super().__init__()
        self.out_conv = NormActConv(channels * 2, channels, groups=channels)

        def branch() -> ConvModule:
            return ConvModule(
                channels,
                channels,
                3,
                padding=1,
                bias=True,
                conv_cfg=input_conv_cfg,
                norm_cfg=input_norm_cfg,
            )

        self.input1_conv = branch()
        self.input2_conv = branch() if with_input2_conv else nn.Sequential()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two maps (B, C, h, w) give one at the larger size."""
        size = max((int(x.shape[-2]), int(x.shape[-1])) for x in (first, second))
        parts = (fit(self.input1_conv(first), size), fit(self.input2_conv(second), size))
        return self.out_conv(torch.cat(parts, dim=1))


class NASFCOS_FPN(nn.Module):  # noqa: N801 - the name configs use
    """Seven cells on the adapted backbone maps, three of them outputs, coarser levels by convolution."""

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 1,
        end_level: int = -1,
        add_extra_convs: bool = False,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
    ) -> None:
        """Describe the neck.

        Args:
            in_channels: channels of each backbone level.
            out_channels: channels of the outputs.
            num_outs: number of outputs.
            start_level: first backbone level used.
            end_level: last backbone level used, -1 for the last one.
            add_extra_convs: accepted for the dialect; coarser levels always come from convolutions.
            conv_cfg: convolutions at the inputs of the cells.
            norm_cfg: their norms.

        Raises:
            ConfigError: fewer than three backbone levels are used.
        """
        super().__init__()
        self.start_level = start_level
        last = len(in_channels) if end_level in (-1, len(in_channels) - 1) else end_level + 1
        if last - start_level < 3:
            raise ConfigError(
                f"NASFCOS_FPN: found {last - start_level} backbone levels from start_level={start_level}; "
                "expected at least 3, which its cells merge. Lower start_level."
            )
        self.adapt_convs = nn.ModuleList(
            ConvModule(in_channels[i], out_channels, 1, bias=False, norm_cfg=BATCH_NORM, inplace=False)
            for i in range(start_level, last)
        )
        self.fpn = nn.ModuleDict(
            {
                name: ConcatCell(
                    out_channels,
                    with_input2_conv=second,
                    input_conv_cfg=conv_cfg,
                    input_norm_cfg=norm_cfg,
                )
                for name, second in CELLS
            }
        )
        self.extra_downsamples = nn.ModuleList(
            ActConv(out_channels, activate=i > 0) for i in range(num_outs - last + start_level)
        )

    def init_weights(self) -> None:
        """Defaults of the blocks; Caffe2's Xavier at the two ends."""
        for module in self.modules():
            if isinstance(module, ConvModule):
                module.init_weights()
        for part in (self.adapt_convs, self.extra_downsamples):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    fill(module, InitSpec(type="Caffe2Xavier"))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Backbone maps (B, C_i, h, w) give ``num_outs`` maps (B, C, h, w), fine levels first."""
        maps = [conv(inputs[i + self.start_level]) for i, conv in enumerate(self.adapt_convs)]
        for name, cell in self.fpn.items():
            maps.append(cell(maps[int(name[1])], maps[int(name[2])]))
        outs = []
        for source, level in ((9, 1), (8, 2), (7, 3)):
            size = maps[source].shape[2:]
            shared = functional.interpolate(maps[5], size=size, mode="bilinear", align_corners=False)
            total = maps[source] + shared
            outs.append(
                functional.interpolate(
                    total, size=inputs[level].shape[2:], mode="bilinear", align_corners=False
                )
            )
        for down in self.extra_downsamples:
            outs.append(down(outs[-1]))
        return tuple(outs)
