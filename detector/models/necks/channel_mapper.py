"""Channel mapper: one convolution per map gives all maps the same number of channels.

Shapes: B images, L_in input maps of C_i channels, ``num_outs`` output maps of ``out_channels`` channels.
Attribute names are the checkpoint format (MMDetection 2.28, models/necks/channel_mapper.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detector.layers.conv import RELU, ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.structures.specs import ActSpec, ConvSpec, InitSpec, NormSpec

XAVIER_CONV = InitSpec(type="Xavier", layer="Conv2d", distribution="uniform")


class ChannelMapper(nn.Module):
    """Convolutions to a common width; further maps by strided convolutions of the last input."""

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        kernel_size: int = 3,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        act_cfg: ActSpec | None = RELU,
        num_outs: int | None = None,
        init_cfg: InitRules = XAVIER_CONV,
    ) -> None:
        """Describe the neck.

        Args:
            in_channels: channels of every input map.
            out_channels: channels of every output map.
            kernel_size: side of the kernels for the inputs.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            act_cfg: activation after each convolution.
            num_outs: number of output maps; default as many as inputs.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.init_cfg = init_cfg
        shared: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.convs = nn.ModuleList(
            ConvModule(width, out_channels, kernel_size, padding=(kernel_size - 1) // 2, **shared)
            for width in in_channels
        )
        extra = (num_outs or len(in_channels)) - len(in_channels)
        self.extra_convs: nn.ModuleList | None = None
        if extra > 0:
            widths = [in_channels[-1]] + [out_channels] * (extra - 1)
            self.extra_convs = nn.ModuleList(
                ConvModule(width, out_channels, 3, stride=2, padding=1, **shared) for width in widths
            )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L_in maps (B, C_i, H_i, W_i), fine to coarse, give ``num_outs`` maps (B, out_channels, ...)."""
        outs = [conv(x) for conv, x in zip(self.convs, inputs, strict=True)]
        for i, conv in enumerate(self.extra_convs or ()):
            outs.append(conv(inputs[-1] if i == 0 else outs[-1]))
        return tuple(outs)

    def init_weights(self) -> None:
        """Xavier uniform convolutions unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
