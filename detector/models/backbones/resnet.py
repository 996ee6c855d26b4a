"""ResNet, ResNetV1d and ResNeXt.

Shapes: B images, H x W network input; stage i gives (B, C_i, H / 2^(i+2), W / 2^(i+2)) with the default
strides.
Papers: He et al., CVPR 2016, arXiv:1512.03385; Xie et al., CVPR 2017, arXiv:1611.05431; He et al., CVPR
2019, arXiv:1812.01187 (V1d).
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/resnet.py, resnext.py,
utils/res_layer.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from detector.errors import ConfigError
from detector.layers.context_block import ContextBlock
from detector.layers.conv import make_conv
from detector.layers.deform_conv import DeformConv2dPack, ModulatedDeformConv2dPack, zero_
from detector.layers.folding import convolve_and_normalise
from detector.layers.generalized_attention import GeneralizedAttention
from detector.layers.init import InitRules, apply_rules, is_pretrained
from detector.layers.norm import add_norm, freeze, make_norm
from detector.layers.plugins import POSITIONS, PluginSpec, attach
from detector.structures.specs import ConvSpec, InitSpec, NormSpec

BATCH_NORM = NormSpec(type="BN")
_DEFAULT_INIT = [
    InitSpec(type="Kaiming", layer="Conv2d"),
    InitSpec(type="Constant", val=1.0, layer=("_BatchNorm", "GroupNorm")),
]


@dataclass(frozen=True)
class BlockSettings:
    """What all blocks of a stage share; ``dcn`` and ``plugins`` differ from stage to stage."""

    style: str = "pytorch"
    with_cp: bool = False
    conv_cfg: ConvSpec | None = None
    norm_cfg: NormSpec = BATCH_NORM
    groups: int = 1
    base_width: int = 4
    base_channels: int = 64
    dcn: ConvSpec | None = None
    plugins: tuple[PluginSpec, ...] = ()

    @property
    def middle_conv(self) -> ConvSpec | None:
        """Kind of the 3 x 3 convolution of a bottleneck.

        Raises:
            ConfigError: both ``dcn`` and ``conv_cfg`` ask for one.
        """
        if self.dcn is not None and self.conv_cfg is not None:
            raise ConfigError(
                f"found dcn {self.dcn.type!r} and conv_cfg {self.conv_cfg.type!r}; remove one of them."
            )
        return self.dcn or self.conv_cfg


class Residual(nn.Module):
    """A residual branch added to the (projected) input, recomputed in the backward pass with ``with_cp``."""

    def __init__(self, downsample: nn.Module | None, *, with_cp: bool) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def branch(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'), before the sum."""
        raise NotImplementedError

    @property
    def last_norm(self) -> nn.Module:
        """The norm before the sum."""
        raise NotImplementedError

    def _inner(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else _project(self.downsample, x)
        branch = self.branch(x)
        return branch + identity if torch.is_grad_enabled() else branch.add_(identity)

    def summed(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'), the sum before its activation."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._inner, x, use_reentrant=False)  # type: ignore[return-value]
        return self._inner(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return self.relu(self.summed(x))


def _project(downsample: nn.Module, x: Tensor) -> Tensor:
    """The shortcut's projection: perhaps a pooling, a convolution and its norm."""
    if not isinstance(downsample, nn.Sequential) or len(downsample) < 2:
        return downsample(x)
    for pooling in downsample[:-2]:
        x = pooling(x)
    return convolve_and_normalise(downsample[-2], downsample[-1], x)


class BasicBlock(Residual):
    """Two 3 x 3 convolutions."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
        settings: BlockSettings,
    ) -> None:
        """``planes`` output channels; the first convolution strides.

        Raises:
            ConfigError: a deformable convolution or plugins are asked for.
        """
        super().__init__(downsample, with_cp=settings.with_cp)
        if settings.dcn is not None or settings.plugins:
            raise ConfigError("dcn and plugins need the bottlenecks of depth 50 or more; remove them.")
        norm, conv = settings.norm_cfg, settings.conv_cfg
        self.conv1 = make_conv(
            conv, in_channels, planes, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self._norm1 = add_norm(self, norm, planes, 1)
        self.conv2 = make_conv(conv, planes, planes, 3, padding=1, bias=False)
        self._norm2 = add_norm(self, norm, planes, 2)

    def branch(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, planes, H', W'), before the sum."""
        x = self.relu(convolve_and_normalise(self.conv1, getattr(self, self._norm1), x))
        return convolve_and_normalise(self.conv2, getattr(self, self._norm2), x)

    @property
    def last_norm(self) -> nn.Module:
        """The norm before the sum."""
        return getattr(self, self._norm2)


class Bottleneck(Residual):
    """1 x 1, 3 x 3 and 1 x 1 convolutions; ResNeXt gives the middle one groups."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
        settings: BlockSettings,
    ) -> None:
        """``planes * 4`` output channels.

        Style pytorch strides in the 3 x 3 convolution, caffe in the first.
        """
        super().__init__(downsample, with_cp=settings.with_cp)
        norm, conv = settings.norm_cfg, settings.conv_cfg
        first, second = (1, stride) if settings.style == "pytorch" else (stride, 1)
        width = planes
        if settings.groups > 1:
            width = math.floor(planes * (settings.base_width / settings.base_channels)) * settings.groups
        self.conv1 = make_conv(conv, in_channels, width, 1, stride=first, bias=False)
        self._norm1 = add_norm(self, norm, width, 1)
        self.conv2 = make_conv(
            settings.middle_conv,
            width,
            width,
            3,
            stride=second,
            padding=dilation,
            dilation=dilation,
            groups=settings.groups,
            bias=False,
        )
        self._norm2 = add_norm(self, norm, width, 2)
        self.conv3 = make_conv(conv, width, planes * self.expansion, 1, bias=False)
        self._norm3 = add_norm(self, norm, planes * self.expansion, 3)
        widths = zip(POSITIONS, (width, width, planes * self.expansion), strict=True)
        self._plugins = [attach(self, settings.plugins, position, channels) for position, channels in widths]

    def branch(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, planes * 4, H', W'), before the sum."""
        x = self._plugged(0, self.relu(convolve_and_normalise(self.conv1, getattr(self, self._norm1), x)))
        x = self._plugged(1, self.relu(convolve_and_normalise(self.conv2, getattr(self, self._norm2), x)))
        return self._plugged(2, convolve_and_normalise(self.conv3, getattr(self, self._norm3), x))

    def _plugged(self, position: int, x: Tensor) -> Tensor:
        for name in self._plugins[position]:
            x = getattr(self, name)(x)
        return x

    @property
    def last_norm(self) -> nn.Module:
        """The norm before the sum."""
        return getattr(self, self._norm3)


Block = type[BasicBlock] | type[Bottleneck]
Architectures = Mapping[int, tuple[Any, tuple[int, ...]]]
ARCHITECTURES: Architectures = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def architecture(depth: int, known: Architectures = ARCHITECTURES) -> tuple[Block, tuple[int, ...]]:
    """Block class and blocks per stage of a depth."""
    if depth not in known:
        raise ConfigError(f"ResNet: unknown depth {depth}; expected one of {', '.join(map(str, known))}.")
    return known[depth]


def make_stage(
    block: Block,
    in_channels: int,
    planes: int,
    num_blocks: int,
    *,
    stride: int,
    dilation: int,
    settings: BlockSettings,
    avg_down: bool = False,
    contract_dilation: bool = False,
) -> nn.Sequential:
    """One stage: the first block strides and projects, the others keep size and width."""
    downsample = None
    out_channels = planes * block.expansion
    if stride != 1 or in_channels != out_channels:
        parts: list[nn.Module] = []
        if avg_down:
            parts.append(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
        conv = make_conv(
            settings.conv_cfg, in_channels, out_channels, 1, stride=1 if avg_down else stride, bias=False
        )
        downsample = nn.Sequential(*parts, conv, make_norm(settings.norm_cfg, out_channels))
    first_dilation = dilation // 2 if dilation > 1 and contract_dilation else dilation
    blocks = [
        block(
            in_channels,
            planes,
            stride=stride,
            dilation=first_dilation,
            downsample=downsample,
            settings=settings,
        )
    ]
    blocks += [
        block(out_channels, planes, stride=1, dilation=dilation, downsample=None, settings=settings)
        for _ in range(1, num_blocks)
    ]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """Residual network of depth 18, 34, 50, 101 or 152 without its classifier."""

    architectures: ClassVar[Architectures] = ARCHITECTURES

    def __init__(
        self,
        *,
        depth: int,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
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
        contract_dilation: bool = False,
        init_cfg: InitRules = None,
        groups: int = 1,
        base_width: int = 4,
    ) -> None:
        """Describe the network.

        Args:
            depth: number of weighted layers; gives block class and blocks per stage.
            in_channels: channels of the image.
            stem_channels: channels after the stem; default ``base_channels``.
            base_channels: planes of the first stage.
            num_stages: stages to build, 1 to 4.
            strides: stride of each stage's first block.
            dilations: dilation of each stage.
            out_indices: stages whose output is returned.
            style: pytorch strides in the 3 x 3 convolution, caffe in the 1 x 1 before it.
            deep_stem: three 3 x 3 convolutions instead of one 7 x 7.
            avg_down: average pooling before the projection of the shortcut.
            frozen_stages: stem and this many stages take no part in training; -1 freezes nothing.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            norm_eval: batch norms use their running statistics also in training.
            dcn: deformable convolution in place of the 3 x 3 ones of bottlenecks.
            stage_with_dcn: stages with such convolutions.
            plugins: layers inserted into the bottlenecks.
            with_cp: recompute blocks in the backward pass to save memory.
            zero_init_residual: the last norm of each block starts at 0.
            contract_dilation: the first block of a dilated stage uses half the dilation.
            init_cfg: rules for the initial values, or a pretrained checkpoint.
            groups: groups of the 3 x 3 convolution (ResNeXt).
            base_width: width of a group (ResNeXt).
        """
        super().__init__()
        block, counts = architecture(depth, self.architectures)
        self.settings = self.block_settings(
            BlockSettings(
                style=style,
                with_cp=with_cp,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
                groups=groups,
                base_width=base_width,
                base_channels=base_channels,
            )
        )
        self.frozen_stages, self.norm_eval, self.out_indices = frozen_stages, norm_eval, tuple(out_indices)
        self.zero_init_residual, self.init_cfg = zero_init_residual, init_cfg
        self._plan_extras(dcn, stage_with_dcn, plugins)
        stem = stem_channels or base_channels
        self._make_stem(in_channels, stem, deep_stem=deep_stem)
        self._stages: list[str] = []
        width = stem
        for i in range(num_stages):
            planes = base_channels * 2**i
            stage = make_stage(
                block,
                width,
                planes,
                counts[i],
                stride=strides[i],
                dilation=dilations[i],
                settings=self.stage_settings(i),
                avg_down=avg_down,
                contract_dilation=contract_dilation,
            )
            self._stages.append(f"layer{i + 1}")
            self.add_module(self._stages[-1], stage)
            width = planes * block.expansion
        self._freeze_stages()

    def block_settings(self, shared: BlockSettings) -> BlockSettings:
        """What the blocks receive; a variant with other blocks adds its own settings."""
        return shared

    def _plan_extras(
        self,
        dcn: ConvSpec | None,
        stage_with_dcn: Sequence[bool],
        plugins: Sequence[PluginSpec] | None,
    ) -> None:
        """Note what only some stages have."""
        self._dcn = tuple(dcn if deform else None for deform in stage_with_dcn)
        self._plugins = tuple(plugins or ())

    def stage_settings(self, index: int) -> BlockSettings:
        """What the blocks of stage ``index`` (from 0) receive."""
        dcn = self._dcn[index] if index < len(self._dcn) else None
        plugins = tuple(plugin for plugin in self._plugins if plugin.in_stage(index))
        return replace(self.settings, dcn=dcn, plugins=plugins)

    def _make_stem(self, in_channels: int, channels: int, *, deep_stem: bool) -> None:
        conv, norm = self.settings.conv_cfg, self.settings.norm_cfg
        self.deep_stem = deep_stem
        if deep_stem:
            widths = (in_channels, channels // 2, channels // 2, channels)
            parts: list[nn.Module] = []
            for i in range(3):
                stride = 2 if i == 0 else 1
                parts.append(
                    make_conv(conv, widths[i], widths[i + 1], 3, stride=stride, padding=1, bias=False)
                )
                parts += [make_norm(norm, widths[i + 1]), nn.ReLU(inplace=True)]
            self.stem = nn.Sequential(*parts)
        else:
            self.conv1 = make_conv(conv, in_channels, channels, 7, stride=2, padding=3, bias=False)
            self._norm1 = add_norm(self, norm, channels, 1)
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def enter(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, stem channels, H / 4, W / 4), the input of the first stage."""
        if self.deep_stem:
            return self.maxpool(self.stem(x))
        return self.maxpool(self.relu(convolve_and_normalise(self.conv1, getattr(self, self._norm1), x)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives the maps of ``out_indices``."""
        x = self.enter(x)
        outputs = []
        for i, name in enumerate(self._stages):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages >= 0:
            for part in [self.stem] if self.deep_stem else [self.conv1, getattr(self, self._norm1)]:
                freeze(part)
        for name in self._stages[: max(self.frozen_stages, 0)]:
            freeze(getattr(self, name))

    def train(self, mode: bool = True) -> ResNet:
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
        """Kaiming convolutions and unit norms unless ``init_cfg`` says otherwise.

        Offsets start at zero and plugins with their own values. Checkpoints are the engine's work.
        """
        apply_rules(self, _DEFAULT_INIT if self.init_cfg is None else self.init_cfg)
        for module in self.modules():
            if isinstance(module, (ContextBlock, GeneralizedAttention)):
                module.init_weights()
            elif isinstance(module, (DeformConv2dPack, ModulatedDeformConv2dPack)):
                zero_(module.conv_offset)
        if self.zero_init_residual and not is_pretrained(self.init_cfg):
            for module in self.modules():
                if isinstance(module, Residual):
                    nn.init.zeros_(module.last_norm.weight)  # type: ignore[arg-type]


class ResNetV1d(ResNet):
    """ResNet with deep stem and average pooling in the shortcuts (bag of tricks)."""

    def __init__(self, **kwargs: object) -> None:
        """Take the arguments of ``ResNet`` except ``deep_stem`` and ``avg_down``."""
        super().__init__(deep_stem=True, avg_down=True, **kwargs)  # type: ignore[arg-type]


class ResNeXt(ResNet):
    """ResNet with grouped 3 x 3 convolutions; ``groups`` and ``base_width`` as in 32x4d."""
