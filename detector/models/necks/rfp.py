"""Recursive feature pyramid: the pyramid's maps go back into a backbone, and the two rounds are fused.

Shapes: B images, C = ``out_channels`` channels, ``num_outs`` output maps.
Paper: Qiao et al., CVPR 2021, arXiv:2006.02334 (DetectoRS).
Attribute names are the checkpoint format (MMDetection 2.28, models/necks/rfp.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.deform_conv import zero_
from detector.layers.init import apply_rules, init_conv_modules
from detector.models.backbones.detectors_resnet import DetectoRSResNet
from detector.models.necks.fpn import FPN


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: four views of one map side by side; the last sees the mean only."""

    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int] = (1, 3, 6, 1)) -> None:
        """``out_channels`` per branch; a branch of dilation 1 has a 1 x 1 kernel, any other 3 x 3.

        Raises:
            ConfigError: the last dilation is not 1.
        """
        super().__init__()
        if not dilations or dilations[-1] != 1:
            raise ConfigError(f"ASPP: found dilations {tuple(dilations)}; the last one must be 1.")
        self.aspp = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 3, padding=d, dilation=d)
            if d > 1
            else nn.Conv2d(in_channels, out_channels, 1)
            for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, branches * out_channels, H, W)."""
        *local, pooled = self.aspp
        outs = [conv(x).relu() for conv in local]
        outs.append(pooled(x.mean(dim=(2, 3), keepdim=True)).relu().expand(-1, -1, *x.shape[2:]))
        return torch.cat(outs, dim=1)


class RFP(FPN):
    """FPN run again on backbones that also see the pyramid of the round before.

    Takes the image in front of the maps: the model's backbone needs ``output_img``.
    """

    def __init__(
        self,
        *,
        rfp_steps: int,
        rfp_modules: Sequence[DetectoRSResNet],
        aspp_out_channels: int,
        aspp_dilations: Sequence[int] = (1, 3, 6, 1),
        **kwargs: object,
    ) -> None:
        """Describe the pyramid.

        Args:
            rfp_steps: rounds, the first one included.
            rfp_modules: the backbone of every further round (``rfp_backbone`` of a config, repeated).
            aspp_out_channels: channels of each ASPP branch; together they make the ``rfp_inplanes``.
            aspp_dilations: dilation of each ASPP branch.
            kwargs: the arguments of ``FPN``.

        Raises:
            ConfigError: rounds and backbones do not go together.
        """
        super().__init__(**kwargs)  # type: ignore[arg-type]
        if len(rfp_modules) != rfp_steps - 1:
            raise ConfigError(
                f"RFP: rfp_steps={rfp_steps} needs {rfp_steps - 1} further backbones; found "
                f"{len(rfp_modules)}. Set rfp_steps and rfp_backbone."
            )
        first: Any = self.fpn_convs[0]
        channels = first.conv.out_channels
        self.rfp_modules = nn.ModuleList(rfp_modules)
        self.rfp_aspp = ASPP(channels, aspp_out_channels, aspp_dilations)
        self.rfp_weight = nn.Conv2d(channels, 1, 1)

    def init_weights(self) -> None:
        """FPN's values, the backbones' own, and equal weights for both rounds; ASPP keeps torch's."""
        for convs in (self.lateral_convs, self.fpn_convs):
            init_conv_modules(convs)
            if self.init_cfg is not None:
                apply_rules(convs, self.init_cfg)
        for module in self.rfp_modules:
            module.init_weights()  # type: ignore[operator]
        zero_(self.rfp_weight)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The image (B, 3, H, W), then the backbone's maps, give ``num_outs`` maps (B, C, ...)."""
        image, *maps = inputs
        outs = super().forward(maps)
        for backbone in self.rfp_modules:
            fed = [outs[0], *(self.rfp_aspp(level) for level in outs[1 : len(maps)])]
            again = super().forward(backbone.rfp_forward(image, fed))  # type: ignore[operator]
            shares = [self.rfp_weight(level).sigmoid() for level in again]
            outs = tuple(
                share * new + (1 - share) * old for share, new, old in zip(shares, again, outs, strict=True)
            )
        return outs
