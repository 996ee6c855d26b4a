"""HRFPN: the branches of HRNet brought to one size, joined and pooled into a pyramid.

Shapes: B images, L_in input maps of C_i channels, ``num_outs`` output maps of ``out_channels`` channels.
Paper: Sun et al., 2019, arXiv:1904.04514.
Attribute names are the checkpoint format (MMDetection 2.28, models/necks/hrfpn.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.structures.specs import ConvSpec, InitSpec, NormSpec

CAFFE2_XAVIER_CONV = InitSpec(type="Caffe2Xavier", layer="Conv2d")


class HRFPN(nn.Module):
    """Pyramid by pooling the joined branches."""

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int = 5,
        pooling_type: str = "AVG",
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        with_cp: bool = False,
        stride: int = 1,
        init_cfg: InitRules = CAFFE2_XAVIER_CONV,
    ) -> None:
        """Describe the pyramid.

        Args:
            in_channels: channels of every input map.
            out_channels: channels of every output map.
            num_outs: number of output maps.
            pooling_type: AVG or MAX.
            conv_cfg: kind of convolution.
            norm_cfg: taken for compatibility; the convolutions carry no norm.
            with_cp: recompute convolutions in the backward pass to save memory.
            stride: stride of the 3 x 3 convolutions.
            init_cfg: rules for the initial values.

        Raises:
            ConfigError: another pooling.
        """
        super().__init__()
        poolings = {"AVG": functional.avg_pool2d, "MAX": functional.max_pool2d}
        if pooling_type not in poolings:
            raise ConfigError(f"HRFPN: unknown pooling_type {pooling_type!r}; expected AVG or MAX.")
        self.num_outs, self.with_cp, self.init_cfg = num_outs, with_cp, init_cfg
        self.pooling: Callable[..., Tensor] = poolings[pooling_type]  # type: ignore[assignment]
        self.reduction_conv = ConvModule(sum(in_channels), out_channels, 1, conv_cfg=conv_cfg, act_cfg=None)
        self.fpn_convs = nn.ModuleList(
            ConvModule(
                out_channels, out_channels, 3, stride=stride, padding=1, conv_cfg=conv_cfg, act_cfg=None
            )
            for _ in range(num_outs)
        )

    def _run(self, conv: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(conv, x, use_reentrant=False) if self.with_cp and x.requires_grad else conv(x)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L_in maps (B, C_i, H_i, W_i), fine to coarse, give ``num_outs`` maps (B, out_channels, ...)."""
        size = inputs[0].shape[2:]
        grown = [functional.interpolate(x, size=size, mode="bilinear") for x in inputs[1:]]
        joined = self._run(self.reduction_conv, torch.cat([inputs[0], *grown], dim=1))
        maps = [joined] + [self.pooling(joined, 2**i, stride=2**i) for i in range(1, self.num_outs)]
        return tuple(self._run(conv, x) for conv, x in zip(self.fpn_convs, maps, strict=True))

    def init_weights(self) -> None:
        """Caffe2's Xavier convolutions unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
