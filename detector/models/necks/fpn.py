"""Feature pyramid.

Shapes: B images, L_in input maps of C_i channels, ``num_outs`` output maps of ``out_channels`` channels.
Paper: Lin et al., CVPR 2017, arXiv:1612.03144; checked against mmdet 2.28.2 models/necks/fpn.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.structures.specs import ActSpec, ConvSpec, InitSpec, NormSpec, UpsampleSpec

XAVIER_CONV = InitSpec(type="Xavier", layer="Conv2d", distribution="uniform")
NEAREST = UpsampleSpec(mode="nearest")


class FPN(nn.Module):
    """Top-down pathway with lateral connections.

    Attribute names are the checkpoint format (MMDetection 2.28).
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        act_cfg: ActSpec | None = None,
        upsample_cfg: UpsampleSpec = NEAREST,
        init_cfg: InitRules = XAVIER_CONV,
    ) -> None:
        """Describe the pyramid.

        Args:
            in_channels: channels of every input map.
            out_channels: channels of every output map.
            num_outs: number of output maps.
            start_level: first input map used.
            end_level: last input map used; -1 is the last one.
            add_extra_convs: False pools extra maps; on_input, on_lateral, on_output (True: on_input)
                convolve that source.
            relu_before_extra_convs: activate before each extra convolution but the first.
            no_norm_on_lateral: lateral convolutions carry no norm.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            act_cfg: activation after each convolution.
            upsample_cfg: interpolation of the top-down pathway.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        sources = ("on_input", "on_lateral", "on_output")
        if isinstance(add_extra_convs, str) and add_extra_convs not in sources:
            raise ConfigError(
                f"FPN: add_extra_convs={add_extra_convs!r}; expected a bool or one of {', '.join(sources)}."
            )
        last = len(in_channels) - 1 if end_level in (-1, len(in_channels) - 1) else end_level
        levels = last - start_level + 1
        if num_outs < levels or (last < len(in_channels) - 1 and num_outs != levels):
            raise ConfigError(
                f"FPN: num_outs={num_outs} does not fit {levels} input levels; give at least that many."
            )
        self.start_level, self.last_level, self.num_outs = start_level, last, num_outs
        self.extra_source = "on_input" if add_extra_convs is True else add_extra_convs
        self.relu_before_extra_convs, self.upsample, self.init_cfg = (
            relu_before_extra_convs,
            upsample_cfg,
            init_cfg,
        )
        self.lateral_convs, self.fpn_convs = nn.ModuleList(), nn.ModuleList()
        shared: dict[str, Any] = {"conv_cfg": conv_cfg, "act_cfg": act_cfg, "inplace": False}
        for i in range(start_level, last + 1):
            lateral_norm = None if no_norm_on_lateral else norm_cfg
            self.lateral_convs.append(
                ConvModule(in_channels[i], out_channels, 1, norm_cfg=lateral_norm, **shared)
            )
            self.fpn_convs.append(
                ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, **shared)
            )
        for i in range(num_outs - levels if self.extra_source else 0):
            width = in_channels[last] if i == 0 and self.extra_source == "on_input" else out_channels
            self.fpn_convs.append(
                ConvModule(width, out_channels, 3, stride=2, padding=1, norm_cfg=norm_cfg, **shared)
            )

    def _grow(self, x: Tensor, like: Tensor) -> Tensor:
        spec = self.upsample
        if spec.scale_factor is not None:
            return functional.interpolate(
                x, scale_factor=spec.scale_factor, mode=spec.mode, align_corners=spec.align_corners
            )
        return functional.interpolate(
            x, size=like.shape[2:], mode=spec.mode, align_corners=spec.align_corners
        )

    def _laterals(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Lateral maps with the top-down sums added."""
        used = inputs[self.start_level : self.last_level + 1]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            grown = self._grow(laterals[i], laterals[i - 1])
            if torch.is_grad_enabled():
                laterals[i - 1] = laterals[i - 1] + grown
            else:
                laterals[i - 1] += grown
        return laterals

    def _extend(self, outs: list[Tensor], last_input: Tensor, last_lateral: Tensor) -> tuple[Tensor, ...]:
        """Add coarser maps until there are ``num_outs``."""
        sources = {"on_input": last_input, "on_lateral": last_lateral, "on_output": outs[-1]}
        levels = len(outs)
        for i in range(levels, self.num_outs):
            if not self.extra_source:
                outs.append(functional.max_pool2d(outs[-1], 1, stride=2))
            elif i == levels:
                outs.append(self.fpn_convs[i](sources[str(self.extra_source)]))
            else:
                source = functional.relu(outs[-1]) if self.relu_before_extra_convs else outs[-1]
                outs.append(self.fpn_convs[i](source))
        return tuple(outs)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L_in maps (B, C_i, H_i, W_i), fine to coarse, give ``num_outs`` maps (B, out_channels, ...)."""
        laterals = self._laterals(inputs)
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        return self._extend(outs, inputs[self.last_level], laterals[-1])

    def init_weights(self) -> None:
        """Xavier uniform convolutions unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)


class PAFPN(FPN):
    """FPN with a second, bottom-up pathway.

    Paper: Liu et al., CVPR 2018, arXiv:1803.01534; checked against mmdet 2.28.2 models/necks/pafpn.py.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        act_cfg: ActSpec | None = None,
        init_cfg: InitRules = XAVIER_CONV,
    ) -> None:
        """Arguments as in ``FPN``."""
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            num_outs=num_outs,
            start_level=start_level,
            end_level=end_level,
            add_extra_convs=add_extra_convs,
            relu_before_extra_convs=relu_before_extra_convs,
            no_norm_on_lateral=no_norm_on_lateral,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            init_cfg=init_cfg,
        )
        self.downsample_convs, self.pafpn_convs = nn.ModuleList(), nn.ModuleList()
        shared: dict[str, Any] = {
            "padding": 1,
            "conv_cfg": conv_cfg,
            "norm_cfg": norm_cfg,
            "act_cfg": act_cfg,
            "inplace": False,
        }
        for _ in range(self.start_level + 1, self.last_level + 1):
            self.downsample_convs.append(ConvModule(out_channels, out_channels, 3, stride=2, **shared))
            self.pafpn_convs.append(ConvModule(out_channels, out_channels, 3, **shared))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L_in maps (B, C_i, H_i, W_i), fine to coarse, give ``num_outs`` maps (B, out_channels, ...)."""
        laterals = self._laterals(inputs)
        inner = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        for i, conv in enumerate(self.downsample_convs):
            inner[i + 1] = inner[i + 1] + conv(inner[i])
        outs = [inner[0]] + [conv(x) for conv, x in zip(self.pafpn_convs, inner[1:], strict=True)]
        return self._extend(outs, inputs[self.last_level], laterals[-1])
