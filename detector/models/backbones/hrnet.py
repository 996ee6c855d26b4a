"""HRNet: parallel branches at several resolutions that exchange their maps after every module.

Shapes: B images, H x W network input; branch i has C_i channels and size H / 2^(i+2) x W / 2^(i+2).
Paper: Wang et al., TPAMI 2021, arXiv:1908.07919 (HRNetV2p: Sun et al., 2019, arXiv:1904.04514).
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/hrnet.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from detector.errors import ConfigError
from detector.layers.conv import make_conv
from detector.layers.init import InitRules, apply_rules, is_pretrained
from detector.layers.norm import add_norm, make_norm
from detector.models.backbones.resnet import (
    BATCH_NORM,
    BasicBlock,
    Block,
    BlockSettings,
    Bottleneck,
    Residual,
    make_stage,
)
from detector.structures.specs import ConvSpec, InitSpec, NormSpec, Spec

BLOCKS: dict[str, Block] = {"BASIC": BasicBlock, "BOTTLENECK": Bottleneck}
STEM_CHANNELS = 64
_DEFAULT_INIT = [
    InitSpec(type="Kaiming", layer="Conv2d"),
    InitSpec(type="Constant", val=1.0, layer=("_BatchNorm", "GroupNorm")),
]


@dataclass(frozen=True)
class HRStageSpec(Spec):
    """One stage.

    Attributes:
        num_modules: modules in a row, each ending with an exchange.
        num_branches: resolutions.
        block: BASIC or BOTTLENECK.
        num_blocks: blocks of each branch in a module.
        num_channels: planes of each branch's blocks.
    """

    num_modules: int
    num_branches: int
    block: str
    num_blocks: Sequence[int]
    num_channels: Sequence[int]

    def __post_init__(self) -> None:
        """Refuse settings that do not fit one another."""
        if self.block not in BLOCKS:
            raise ConfigError(f"HRNet: unknown block {self.block!r}; expected one of {', '.join(BLOCKS)}.")
        if not len(self.num_blocks) == len(self.num_channels) == self.num_branches:
            raise ConfigError(
                f"HRNet: found {len(self.num_blocks)} num_blocks and {len(self.num_channels)} num_channels; "
                f"expected num_branches = {self.num_branches} of each."
            )

    @property
    def widths(self) -> list[int]:
        """Output channels of each branch."""
        return [channels * BLOCKS[self.block].expansion for channels in self.num_channels]


@dataclass(frozen=True)
class HRNetSpec(Spec):
    """The four stages; the first has one branch, each further stage at least as many as the one before."""

    stage1: HRStageSpec
    stage2: HRStageSpec
    stage3: HRStageSpec
    stage4: HRStageSpec


def _unit(
    settings: BlockSettings, in_channels: int, out_channels: int, *, stride: int = 2, relu: nn.Module | None
) -> nn.Sequential:
    """3 x 3 convolution, norm and, where given, the activation."""
    conv = make_conv(settings.conv_cfg, in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    parts = [conv, make_norm(settings.norm_cfg, out_channels)]
    return nn.Sequential(*parts, *([] if relu is None else [relu]))


class HRModule(nn.Module):
    """Blocks on every branch, then each output branch sums all branches brought to its size and width."""

    def __init__(
        self,
        spec: HRStageSpec,
        in_channels: Sequence[int],
        *,
        multiscale_output: bool,
        settings: BlockSettings,
    ) -> None:
        """``in_channels`` of each branch; without ``multiscale_output`` only the finest is returned."""
        super().__init__()
        block, widths = BLOCKS[spec.block], spec.widths
        self.branches = nn.ModuleList(
            make_stage(block, width, planes, count, stride=1, dilation=1, settings=settings)
            for width, planes, count in zip(in_channels, spec.num_channels, spec.num_blocks, strict=True)
        )
        self.fuse_layers: nn.ModuleList | None = None
        if spec.num_branches > 1:
            self.fuse_layers = nn.ModuleList(
                nn.ModuleList([self._path(settings, widths, source, target) for source in range(len(widths))])  # type: ignore[misc, list-item]
                for target in range(len(widths) if multiscale_output else 1)
            )
        self.relu = nn.ReLU(inplace=False)

    @staticmethod
    def _path(
        settings: BlockSettings, widths: Sequence[int], source: int, target: int
    ) -> nn.Sequential | None:
        """Layers from one branch to another; a finer source strides, a coarser one is enlarged later."""
        if source == target:
            return None
        if source > target:
            conv = make_conv(settings.conv_cfg, widths[source], widths[target], 1, bias=False)
            return nn.Sequential(conv, make_norm(settings.norm_cfg, widths[target]))
        steps = [
            _unit(settings, widths[source], widths[source], relu=nn.ReLU(inplace=False))
            for _ in range(target - source - 1)
        ]
        return nn.Sequential(*steps, _unit(settings, widths[source], widths[target], relu=None))

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """One map (B, C_i, H_i, W_i) per branch gives one per output branch."""
        maps = [branch(one) for branch, one in zip(self.branches, x, strict=True)]
        if self.fuse_layers is None:
            return maps
        outs = []
        for target, layers in enumerate(self.fuse_layers):
            total: Tensor | None = None
            paths: Any = layers
            for source, layer in enumerate(paths):
                part = maps[source] if layer is None else layer(maps[source])
                if source > target:
                    part = functional.interpolate(part, size=maps[target].shape[2:], mode="nearest")
                total = part if total is None else total + part
            assert total is not None
            outs.append(self.relu(total))
        return outs


class HRNet(nn.Module):
    """Stem at a quarter of the input's size, then four stages."""

    def __init__(
        self,
        *,
        extra: HRNetSpec,
        in_channels: int = 3,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = BATCH_NORM,
        norm_eval: bool = True,
        with_cp: bool = False,
        zero_init_residual: bool = False,
        multiscale_output: bool = True,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the network.

        Args:
            extra: the stages.
            in_channels: channels of the image.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            norm_eval: batch norms use their running statistics also in training.
            with_cp: recompute blocks in the backward pass to save memory.
            zero_init_residual: the last norm of each block starts at 0.
            multiscale_output: return all branches, not just the finest.
            init_cfg: rules for the initial values, or a pretrained checkpoint.
        """
        super().__init__()
        self.settings = BlockSettings(conv_cfg=conv_cfg, norm_cfg=norm_cfg, with_cp=with_cp)
        self.norm_eval, self.zero_init_residual, self.init_cfg = norm_eval, zero_init_residual, init_cfg
        shared = {"stride": 2, "padding": 1, "bias": False}
        self.conv1 = make_conv(conv_cfg, in_channels, STEM_CHANNELS, 3, **shared)  # type: ignore[arg-type]
        self._norm1 = add_norm(self, norm_cfg, STEM_CHANNELS, 1)
        self.conv2 = make_conv(conv_cfg, STEM_CHANNELS, STEM_CHANNELS, 3, **shared)  # type: ignore[arg-type]
        self._norm2 = add_norm(self, norm_cfg, STEM_CHANNELS, 2)
        self.relu = nn.ReLU(inplace=True)
        first = extra.stage1
        self.layer1 = make_stage(
            BLOCKS[first.block],
            STEM_CHANNELS,
            first.num_channels[0],
            first.num_blocks[0],
            stride=1,
            dilation=1,
            settings=self.settings,
        )
        self.transition1 = self._transition(first.widths[:1], extra.stage2.widths)
        self.stage2 = self._stage(extra.stage2)
        self.transition2 = self._transition(extra.stage2.widths, extra.stage3.widths)
        self.stage3 = self._stage(extra.stage3)
        self.transition3 = self._transition(extra.stage3.widths, extra.stage4.widths)
        self.stage4 = self._stage(extra.stage4, multiscale_output=multiscale_output)

    def _transition(self, before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
        """Layers that change widths and open new, coarser branches from the coarsest one."""
        layers: list[nn.Module | None] = []
        for i, width in enumerate(after):
            if i < len(before):
                same = width == before[i]
                relu = nn.ReLU(inplace=True)
                layers.append(None if same else _unit(self.settings, before[i], width, stride=1, relu=relu))
                continue
            steps = [before[-1]] * (i + 1 - len(before)) + [width]
            layers.append(
                nn.Sequential(
                    *(_unit(self.settings, a, b, relu=nn.ReLU(inplace=True)) for a, b in pairwise(steps))
                )
            )
        return nn.ModuleList(layers)  # type: ignore[arg-type]

    def _stage(self, spec: HRStageSpec, *, multiscale_output: bool = True) -> nn.Sequential:
        last = spec.num_modules - 1
        return nn.Sequential(
            *(
                HRModule(
                    spec,
                    spec.widths,
                    multiscale_output=multiscale_output or i < last,
                    settings=self.settings,
                )
                for i in range(spec.num_modules)
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives one map per branch of the last stage, fine to coarse."""
        x = self.relu(getattr(self, self._norm1)(self.conv1(x)))
        x = self.relu(getattr(self, self._norm2)(self.conv2(x)))
        maps = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            sources = maps + [maps[-1]] * (len(transition) - len(maps))
            inputs = [m if t is None else t(m) for t, m in zip(transition, sources, strict=True)]
            maps = stage(inputs)
        return tuple(maps)

    def train(self, mode: bool = True) -> HRNet:
        """Switch mode; with ``norm_eval`` batch norms stay in eval mode."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @torch.no_grad()
    def init_weights(self) -> None:
        """Kaiming convolutions and unit norms unless ``init_cfg`` says otherwise.

        Checkpoints are the engine's work.
        """
        apply_rules(self, _DEFAULT_INIT if self.init_cfg is None else self.init_cfg)
        if self.zero_init_residual and not is_pretrained(self.init_cfg):
            for module in self.modules():
                if isinstance(module, Residual):
                    nn.init.zeros_(module.last_norm.weight)  # type: ignore[arg-type]
