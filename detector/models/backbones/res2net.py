"""Res2Net: residual blocks whose 3 x 3 convolution is a chain over slices of the channels.

Shapes: B images, C channels, H x W map; outputs as in ResNet.
Paper: Gao et al., TPAMI 2021, arXiv:1904.01169.
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/res2net.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import make_conv
from detector.layers.norm import add_norm, make_norm
from detector.models.backbones.resnet import Architectures, BlockSettings, Residual, ResNet


@dataclass(frozen=True)
class ScaleSettings(BlockSettings):
    """What all multi-scale blocks share."""

    scales: int = 4


class Bottle2neck(Residual):
    """1 x 1 convolution, chained 3 x 3 convolutions of slices, 1 x 1 convolution.

    Each slice but the last is convolved after adding the result of the slice before it. The block that
    opens a stage does not chain; it pools the last slice where it strides.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
        settings: ScaleSettings,
    ) -> None:
        """``planes * 4`` output channels; a projected shortcut marks the block that opens a stage.

        Raises:
            ConfigError: plugins are asked for.
        """
        super().__init__(downsample, with_cp=settings.with_cp)
        if settings.plugins:
            raise ConfigError("Res2Net: found plugins; expected none, its blocks have no place for them.")
        norm, conv, parts = settings.norm_cfg, settings.conv_cfg, settings.scales
        first, second = (1, stride) if settings.style == "pytorch" else (stride, 1)
        self.width = math.floor(planes * (settings.base_width / settings.base_channels))
        self.opens = downsample is not None
        self.conv1 = make_conv(conv, in_channels, self.width * parts, 1, stride=first, bias=False)
        self._norm1 = add_norm(self, norm, self.width * parts, 1)
        self.pool = nn.AvgPool2d(3, second, padding=1) if self.opens and second != 1 else None
        self.convs, self.bns = nn.ModuleList(), nn.ModuleList()
        for _ in range(parts - 1):
            self.convs.append(
                make_conv(
                    settings.middle_conv,
                    self.width,
                    self.width,
                    3,
                    stride=second,
                    padding=dilation,
                    dilation=dilation,
                    bias=False,
                )
            )
            self.bns.append(make_norm(norm, self.width))
        self.conv3 = make_conv(conv, self.width * parts, planes * self.expansion, 1, bias=False)
        self._norm3 = add_norm(self, norm, planes * self.expansion, 3)

    def branch(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, planes * 4, H', W'), before the sum."""
        x = self.relu(getattr(self, self._norm1)(self.conv1(x)))
        *slices, last = x.split(self.width, dim=1)
        outs: list[Tensor] = []
        for part, conv, norm in zip(slices, self.convs, self.bns, strict=True):
            source = part + outs[-1] if outs and not self.opens else part
            outs.append(self.relu(norm(conv(source))))
        outs.append(last if self.pool is None else self.pool(last))
        return getattr(self, self._norm3)(self.conv3(torch.cat(outs, dim=1)))

    @property
    def last_norm(self) -> nn.Module:
        """The norm before the sum."""
        return getattr(self, self._norm3)


class Res2Net(ResNet):
    """ResNetV1d of multi-scale blocks, depth 50, 101 or 152."""

    architectures: ClassVar[Architectures] = {
        50: (Bottle2neck, (3, 4, 6, 3)),
        101: (Bottle2neck, (3, 4, 23, 3)),
        152: (Bottle2neck, (3, 8, 36, 3)),
    }

    def __init__(
        self,
        *,
        scales: int = 4,
        base_width: int = 26,
        style: str = "pytorch",
        deep_stem: bool = True,
        avg_down: bool = True,
        **kwargs: object,
    ) -> None:
        """Describe the network.

        Args:
            scales: slices of a block's channels, at least 2.
            base_width: channels of a slice for 64 planes.
            style: taken for compatibility; the 3 x 3 convolutions stride, whatever it says.
            deep_stem: taken for compatibility; the stem is always deep.
            avg_down: taken for compatibility; the shortcuts always pool.
            kwargs: the other arguments of ``ResNet``.

        Raises:
            ConfigError: fewer than two slices.
        """
        if scales < 2:
            raise ConfigError(f"Res2Net: found scales={scales}; expected at least 2 (1 would be a ResNet).")
        self._scales = scales
        super().__init__(
            style="pytorch",
            deep_stem=True,
            avg_down=True,
            base_width=base_width,
            **kwargs,  # type: ignore[arg-type]
        )

    def block_settings(self, shared: BlockSettings) -> ScaleSettings:
        """Add the number of slices."""
        return ScaleSettings(**vars(shared), scales=self._scales)
