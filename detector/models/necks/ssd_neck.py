"""Neck of SSD: the backbone's maps, then coarser ones, each made from the one before.

Shapes: B images, L_in input maps, L output maps.
Boxes: none.
Paper: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325.
Attribute names are the checkpoint format (MMDetection 2.28, models/necks/ssd_neck.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import RELU, ConvModule
from detector.layers.depthwise import DepthwiseSeparableConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.structures.specs import ActSpec, ConvSpec, InitSpec, NormSpec

DEFAULT_INIT = [
    InitSpec(type="Xavier", distribution="uniform", layer="Conv2d"),
    InitSpec(type="Constant", val=1, layer="BatchNorm2d"),
]


class L2Norm(nn.Module):
    """Scale the channels of every position to unit length, then each channel by a learnt factor.

    Source: Liu et al., ParseNet, 2015, arXiv:1506.04579.
    """

    def __init__(self, channels: int, *, scale: float = 20.0, eps: float = 1e-10) -> None:
        """``scale`` is where every factor starts."""
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))
        self.scale, self.eps = float(scale), eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) keeps its shape and type; computed in float32."""
        wide = x.float()
        length = (wide * wide).sum(dim=1, keepdim=True).sqrt() + self.eps
        return (self.weight.float()[:, None, None] * wide / length).to(x)


class SSDNeck(nn.Module):
    """Extra maps by pairs of a 1 x 1 and a 3 x 3 convolution."""

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        level_strides: Sequence[int],
        level_paddings: Sequence[int],
        l2_norm_scale: float | None = 20.0,
        last_kernel_size: int = 3,
        use_depthwise: bool = False,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        act_cfg: ActSpec = RELU,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the neck.

        Args:
            in_channels: channels of the input maps.
            out_channels: channels of all output maps; begins with ``in_channels``.
            level_strides: stride of each extra map.
            level_paddings: padding of each extra map's second convolution.
            l2_norm_scale: first value of the norm of the first map; None or 0 leaves it out.
            last_kernel_size: kernel of the last second convolution.
            use_depthwise: second convolutions are depthwise separable.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            act_cfg: kind of activation.
            init_cfg: rules for the initial values.

        Raises:
            ConfigError: the channels or the numbers of levels do not fit.
        """
        super().__init__()
        known, extra = len(in_channels), len(out_channels) - len(in_channels)
        fits = extra > 0 and extra == len(level_strides) == len(level_paddings)
        if not fits or tuple(out_channels[:known]) != tuple(in_channels):
            raise ConfigError(
                f"SSDNeck: found in_channels={tuple(in_channels)}, out_channels={tuple(out_channels)}, "
                f"{len(level_strides)} level_strides and {len(level_paddings)} level_paddings; "
                "expected out_channels to "
                "begin with in_channels and one stride and padding for every further map."
            )
        self.init_cfg = DEFAULT_INIT if init_cfg is None else init_cfg
        self.l2_norm = L2Norm(in_channels[0], scale=l2_norm_scale) if l2_norm_scale else None
        self.extra_layers = nn.ModuleList()
        second = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        for i, (width, stride, padding) in enumerate(
            zip(out_channels[known:], level_strides, level_paddings, strict=True)
        ):
            half = width // 2
            self.extra_layers.append(
                nn.Sequential(
                    ConvModule(
                        out_channels[known - 1 + i],
                        half,
                        1,
                        conv_cfg=conv_cfg,
                        norm_cfg=norm_cfg,
                        act_cfg=act_cfg,
                    ),
                    second(
                        half,
                        width,
                        last_kernel_size if i == extra - 1 else 3,
                        stride=stride,
                        padding=padding,
                        conv_cfg=conv_cfg,
                        norm_cfg=norm_cfg,
                        act_cfg=act_cfg,
                    ),
                )
            )

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L_in maps give L maps."""
        outputs = list(feats)
        if self.l2_norm is not None:
            outputs[0] = self.l2_norm(outputs[0])
        for layer in self.extra_layers:
            outputs.append(layer(outputs[-1]))
        return tuple(outputs)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Xavier uniform convolutions unless ``init_cfg`` says otherwise; the norm starts at its scale."""
        init_conv_modules(self)
        apply_rules(self, self.init_cfg)
        if self.l2_norm is not None:
            nn.init.constant_(self.l2_norm.weight, self.l2_norm.scale)
