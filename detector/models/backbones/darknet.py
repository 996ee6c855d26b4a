"""Darknet-53, the backbone of YOLOv3.

Shapes: B images of H x W; maps 0 to 5 have stride 1, 2, 4, 8, 16, 32 and 32 to 1024 channels.
Boxes: none.
Paper: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767.
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/darknet.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules
from detector.layers.norm import freeze
from detector.structures.specs import ActSpec, ConvSpec, InitSpec, NormSpec

BATCH_NORM = NormSpec(type="BN")
LEAKY = ActSpec(type="LeakyReLU", negative_slope=0.1)
KAIMING_AND_UNIT_NORMS = [
    InitSpec(type="Kaiming", layer="Conv2d"),
    InitSpec(type="Constant", val=1, layer=["_BatchNorm", "GroupNorm"]),
]
# depth -> residual blocks of the five stages; stage i ends with 64 * 2**i channels
STAGES = {53: (1, 2, 8, 8, 4)}


class ResBlock(nn.Module):
    """Narrow to half the channels and widen again, added to the input."""

    def __init__(
        self, channels: int, *, conv_cfg: ConvSpec | None, norm_cfg: NormSpec | None, act_cfg: ActSpec | None
    ) -> None:
        """``channels`` must be even."""
        super().__init__()
        half = channels // 2
        self.conv1 = ConvModule(channels, half, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv2 = ConvModule(
            half, channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) keeps its shape."""
        return x + self.conv2(self.conv1(x))


class Darknet(nn.Module):
    """Residual network of 53 convolutions with leaky activations, without its classifier."""

    def __init__(
        self,
        *,
        depth: int = 53,
        out_indices: Sequence[int] = (3, 4, 5),
        frozen_stages: int = -1,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = BATCH_NORM,
        act_cfg: ActSpec = LEAKY,
        norm_eval: bool = True,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the network.

        Args:
            depth: 53.
            out_indices: maps to return, 0 being the stem's.
            frozen_stages: this many parts, counted from the stem, take no part in training.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            act_cfg: kind of activation.
            norm_eval: batch norms use their running statistics also in training.
            init_cfg: rules for the initial values, or a pretrained checkpoint.

        Raises:
            ConfigError: an unknown depth.
        """
        super().__init__()
        if depth not in STAGES:
            raise ConfigError(
                f"Darknet: unknown depth {depth}; expected one of {', '.join(map(str, STAGES))}."
            )
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        self.init_cfg = init_cfg
        self.conv1 = ConvModule(3, 32, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self._parts = ["conv1"]
        for i, count in enumerate(STAGES[depth]):
            width = 64 * 2**i
            stage = nn.Sequential()
            stage.add_module(
                "conv",
                ConvModule(
                    width // 2,
                    width,
                    3,
                    stride=2,
                    padding=1,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                ),
            )
            for j in range(count):
                block = ResBlock(width, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
                stage.add_module(f"res{j}", block)
            self._parts.append(f"conv_res_block{i + 1}")
            self.add_module(self._parts[-1], stage)
        self._freeze_parts()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives the maps of ``out_indices``."""
        outputs = []
        for i, name in enumerate(self._parts):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def _freeze_parts(self) -> None:
        for name in self._parts[: max(self.frozen_stages, 0)]:
            freeze(getattr(self, name))

    def train(self, mode: bool = True) -> Darknet:
        """Switch mode; frozen parts and, with ``norm_eval``, batch norms stay in eval mode."""
        super().train(mode)
        self._freeze_parts()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @torch.no_grad()
    def init_weights(self) -> None:
        """Kaiming convolutions and unit norms unless ``init_cfg`` says otherwise."""
        apply_rules(self, KAIMING_AND_UNIT_NORMS if self.init_cfg is None else self.init_cfg)
