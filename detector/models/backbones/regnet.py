"""RegNet X: stages of grouped bottlenecks whose widths follow a quantised line.

Shapes: B images, H x W network input; stage i gives (B, C_i, H / 2^(i+2), W / 2^(i+2)) with the default
strides.
Paper: Radosavovic et al., CVPR 2020, arXiv:2003.13678.
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/regnet.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from detector.errors import ConfigError
from detector.layers.conv import make_conv
from detector.layers.init import InitRules
from detector.layers.norm import add_norm
from detector.layers.plugins import PluginSpec
from detector.models.backbones.resnet import BATCH_NORM, BlockSettings, Bottleneck, ResNet, make_stage
from detector.structures.specs import ConvSpec, NormSpec, Spec

_DIVISOR = 8  # widths are multiples of it


@dataclass(frozen=True)
class RegNetSpec(Spec):
    """The line of widths.

    Attributes:
        w0: width of the first block.
        wa: growth of the width per block.
        wm: ratio of the widths of two stages.
        group_w: channels of a group.
        depth: number of blocks.
        bot_mul: width of the 3 x 3 convolution, relative to the block's.
    """

    w0: int
    wa: float
    wm: float
    group_w: int
    depth: int
    bot_mul: float = 1.0


ARCHITECTURES = {
    "regnetx_400mf": RegNetSpec(w0=24, wa=24.48, wm=2.54, group_w=16, depth=22),
    "regnetx_800mf": RegNetSpec(w0=56, wa=35.73, wm=2.28, group_w=16, depth=16),
    "regnetx_1.6gf": RegNetSpec(w0=80, wa=34.01, wm=2.25, group_w=24, depth=18),
    "regnetx_3.2gf": RegNetSpec(w0=88, wa=26.31, wm=2.25, group_w=48, depth=25),
    "regnetx_4.0gf": RegNetSpec(w0=96, wa=38.65, wm=2.43, group_w=40, depth=23),
    "regnetx_6.4gf": RegNetSpec(w0=184, wa=60.83, wm=2.07, group_w=56, depth=17),
    "regnetx_8.0gf": RegNetSpec(w0=80, wa=49.56, wm=2.88, group_w=120, depth=23),
    "regnetx_12gf": RegNetSpec(w0=168, wa=73.36, wm=2.37, group_w=112, depth=19),
}


@dataclass(frozen=True)
class StagePlan:
    """One stage: output ``width``, number of ``blocks``, ``groups`` and channels per group."""

    width: int
    blocks: int
    groups: int
    group_width: int


def plan(spec: RegNetSpec) -> list[StagePlan]:
    """Stages of a network: blocks of equal quantised width, widths made divisible by the groups.

    Raises:
        ConfigError: the line does not grow, or its first width is no multiple of 8.
    """
    if spec.w0 <= 0 or spec.w0 % _DIVISOR or spec.wa < 0 or spec.wm <= 1:
        raise ConfigError(
            f"RegNet: found w0={spec.w0}, wa={spec.wa}, wm={spec.wm}; "
            f"expected w0 > 0 and a multiple of {_DIVISOR}, wa >= 0, wm > 1."
        )
    counts: dict[int, int] = {}
    for block in range(spec.depth):
        power = round(math.log((spec.w0 + block * spec.wa) / spec.w0) / math.log(spec.wm))
        width = round(spec.w0 * spec.wm**power / _DIVISOR) * _DIVISOR
        counts[width] = counts.get(width, 0) + 1
    stages = []
    for width, blocks in counts.items():
        inner = int(width * spec.bot_mul)
        group = min(spec.group_w, inner)
        fitted = int(round(inner / group) * group / spec.bot_mul)
        stages.append(StagePlan(fitted, blocks, round(fitted * spec.bot_mul) // group, group))
    return stages


def _spec(arch: str | RegNetSpec) -> RegNetSpec:
    if isinstance(arch, RegNetSpec):
        return arch
    if arch not in ARCHITECTURES:
        raise ConfigError(
            f"RegNet: unknown arch {arch!r}; expected one of {', '.join(ARCHITECTURES)}, or w0, wa, wm, "
            "group_w and depth."
        )
    return ARCHITECTURES[arch]


class RegNetBottleneck(Bottleneck):
    """Bottleneck that ends with the width it has inside."""

    expansion = 1


class RegNet(ResNet):
    """RegNet X without its classifier; no pooling after the stem."""

    def __init__(
        self,
        *,
        arch: str | RegNetSpec,
        in_channels: int = 3,
        stem_channels: int = 32,
        base_channels: int = 32,
        strides: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = "pytorch",
        deep_stem: bool = False,
        avg_down: bool = False,
        frozen_stages: int = -1,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = BATCH_NORM,
        norm_eval: bool = True,
        dcn: ConvSpec | None = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        plugins: list[PluginSpec] | tuple[PluginSpec, ...] | None = None,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        init_cfg: InitRules = None,
    ) -> None:
        """Take ``ResNet``'s arguments, but ``arch`` for the depth (a name like regnetx_3.2gf, or a line).

        ``base_channels`` is taken for compatibility (the line gives all widths); ``deep_stem`` must be False.

        Raises:
            ConfigError: unknown name, a deep stem, or strides that do not fit the stages.
        """
        nn.Module.__init__(self)
        stages = plan(_spec(arch))
        if deep_stem:
            raise ConfigError("RegNet: found deep_stem=True; expected False, its stem is one convolution.")
        if not len(stages) == len(strides) == len(dilations):
            raise ConfigError(
                f"RegNet: found {len(strides)} strides and {len(dilations)} dilations; "
                f"expected {len(stages)} of each, one per stage."
            )
        self.settings = BlockSettings(style=style, with_cp=with_cp, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.frozen_stages, self.norm_eval, self.out_indices = frozen_stages, norm_eval, tuple(out_indices)
        self.zero_init_residual, self.init_cfg = zero_init_residual, init_cfg
        self.deep_stem = False
        self._plan_extras(dcn, stage_with_dcn, plugins)
        self.conv1 = make_conv(conv_cfg, in_channels, stem_channels, 3, stride=2, padding=1, bias=False)
        self._norm1 = add_norm(self, norm_cfg, stem_channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()  # type: ignore[assignment]
        self._stages = [f"layer{i + 1}" for i in range(len(stages))]
        width = stem_channels
        for i, (stage, stride, dilation) in enumerate(zip(stages, strides, dilations, strict=True)):
            blocks = make_stage(
                RegNetBottleneck,
                width,
                stage.width,
                stage.blocks,
                stride=stride,
                dilation=dilation,
                settings=replace(
                    self.stage_settings(i),
                    groups=stage.groups,
                    base_width=stage.group_width,
                    base_channels=stage.width,
                ),
                avg_down=avg_down,
            )
            self.add_module(self._stages[i], blocks)
            width = stage.width
        self._freeze_stages()
