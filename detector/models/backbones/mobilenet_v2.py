"""MobileNetV2: inverted residual blocks with depthwise convolutions.

Shapes: B images of H x W, C channels; maps 0 to 7 are the seven stages and the last 1 x 1 convolution.
Boxes: none.
Paper: Sandler et al., CVPR 2018, arXiv:1801.04381.
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/mobilenet_v2.py and
models/utils/inverted_residual.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules
from detector.layers.norm import freeze
from detector.structures.specs import ActSpec, ConvSpec, InitSpec, NormSpec

BATCH_NORM = NormSpec(type="BN")
RELU6 = ActSpec(type="ReLU6")
DEFAULT_INIT = [
    InitSpec(type="Kaiming", layer="Conv2d"),
    InitSpec(type="Constant", val=1, layer=["_BatchNorm", "GroupNorm"]),
]
# expansion, channels, blocks and stride of each stage
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def rounded_width(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of ``divisor``, at least one divisor and at least 90 % of ``channels``."""
    width = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return width + divisor if width < 0.9 * channels else width


class InvertedResidual(nn.Module):
    """Expand, filter every channel by itself, project; added to the input where the shapes agree."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        stride: int,
        conv_cfg: ConvSpec | None,
        norm_cfg: NormSpec,
        act_cfg: ActSpec,
        with_cp: bool,
    ) -> None:
        """``expansion`` 1 has no expanding convolution."""
        super().__init__()
        self.shortcut, self.with_cp = stride == 1 and in_channels == out_channels, with_cp
        middle = in_channels * expansion
        if expansion != 1:
            self.expand_conv = ConvModule(
                in_channels, middle, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
            )
        self.expands = expansion != 1
        self.depthwise_conv = ConvModule(
            middle,
            middle,
            3,
            stride=stride,
            padding=1,
            groups=middle,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.linear_conv = ConvModule(
            middle, out_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None
        )

    def _filter(self, x: Tensor) -> Tensor:
        out = self.linear_conv(self.depthwise_conv(self.expand_conv(x) if self.expands else x))
        return x + out if self.shortcut else out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h / stride, w / stride)."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._filter, x, use_reentrant=False)
        return self._filter(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 without its classifier."""

    def __init__(
        self,
        *,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (1, 2, 4, 7),
        frozen_stages: int = -1,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = BATCH_NORM,
        act_cfg: ActSpec = RELU6,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the network.

        Args:
            widen_factor: multiplies the channels of every stage.
            out_indices: maps to return, 0 to 6 the stages, 7 the last convolution.
            frozen_stages: stem and this many stages take no part in training; -1 freezes nothing.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            act_cfg: kind of activation.
            norm_eval: batch norms use their running statistics also in training.
            with_cp: recompute blocks in the backward pass to save memory.
            init_cfg: rules for the initial values, or a pretrained checkpoint.

        Raises:
            ConfigError: an index outside 0 to 7, or more frozen stages than there are.
        """
        super().__init__()
        if not set(out_indices) <= set(range(8)) or not -1 <= frozen_stages <= 7:
            raise ConfigError(
                f"MobileNetV2: found out_indices={tuple(out_indices)}, frozen_stages={frozen_stages}; "
                "expected "
                "indices from 0 to 7 and -1 to 7 stages."
            )
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        self.init_cfg = init_cfg
        width = rounded_width(32 * widen_factor)
        self.conv1 = ConvModule(
            3, width, 3, stride=2, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        self._stages: list[str] = []
        for i, (expansion, channels, count, stride) in enumerate(STAGES):
            stage = nn.Sequential()
            for j in range(count):
                block = InvertedResidual(
                    width,
                    rounded_width(channels * widen_factor),
                    expansion=expansion,
                    stride=stride if j == 0 else 1,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                    with_cp=with_cp,
                )
                stage.append(block)
                width = rounded_width(channels * widen_factor)
            self._stages.append(f"layer{i + 1}")
            self.add_module(self._stages[-1], stage)
        last = int(1280 * max(widen_factor, 1.0))
        self.conv2 = ConvModule(width, last, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self._stages.append("conv2")
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives the maps of ``out_indices``."""
        x = self.conv1(x)
        outputs = []
        for i, name in enumerate(self._stages):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages >= 0:
            freeze(self.conv1)
        for name in self._stages[: max(self.frozen_stages, 0)]:
            freeze(getattr(self, name))

    def train(self, mode: bool = True) -> MobileNetV2:
        """Switch mode; frozen stages and, with ``norm_eval``, batch norms stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @torch.no_grad()
    def init_weights(self) -> None:
        """Kaiming convolutions and unit norms unless ``init_cfg`` says otherwise."""
        apply_rules(self, DEFAULT_INIT if self.init_cfg is None else self.init_cfg)
