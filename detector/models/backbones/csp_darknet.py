"""CSPDarknet: the backbone of YOLOX.

Shapes: B images of H x W, C channels of a map; map 0 is the stem at 1/2, map i stage i at 1/2^(i+1).
Paper: Ge et al., 2021, arXiv:2107.08430. Attribute names are the checkpoint format (MMDetection 2.28,
models/backbones/csp_darknet.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.csp import SWISH, YOLO_BN, YOLO_INIT, CSPLayer, spatial_conv
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.layers.norm import freeze
from detector.structures.specs import ActSpec, ConvSpec, NormSpec


class Stage(NamedTuple):
    """One stage before widening and deepening."""

    in_channels: int
    out_channels: int
    blocks: int
    add_identity: bool
    use_spp: bool


ARCHITECTURES = {
    "P5": (
        Stage(64, 128, 3, True, False),
        Stage(128, 256, 9, True, False),
        Stage(256, 512, 9, True, False),
        Stage(512, 1024, 3, False, True),
    ),
    "P6": (
        Stage(64, 128, 3, True, False),
        Stage(128, 256, 9, True, False),
        Stage(256, 512, 9, True, False),
        Stage(512, 768, 3, True, False),
        Stage(768, 1024, 3, False, True),
    ),
}


class Focus(nn.Module):
    """Every 2 x 2 square of pixels becomes one cell of four times the channels, then a convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = YOLO_BN,
        act_cfg: ActSpec | None = SWISH,
    ) -> None:
        """``in_channels`` counts before the rearrangement."""
        super().__init__()
        self.conv = ConvModule(
            in_channels * 4,
            out_channels,
            kernel_size,
            padding=(kernel_size - 1) // 2,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) with even sides gives (B, C_out, H / 2, W / 2)."""
        # order of the channels: upper left, lower left, upper right, lower right
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(corners, dim=1))


class SPPBottleneck(nn.Module):
    """The map beside its maxima over windows of several sizes."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_sizes: Sequence[int] = (5, 9, 13),
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = YOLO_BN,
        act_cfg: ActSpec | None = SWISH,
    ) -> None:
        """``kernel_sizes`` are the odd sides of the windows in cells."""
        super().__init__()
        hidden = in_channels // 2
        self.conv1 = ConvModule(in_channels, hidden, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.poolings = nn.ModuleList(
            nn.MaxPool2d(size, stride=1, padding=size // 2) for size in kernel_sizes
        )
        self.conv2 = ConvModule(
            hidden * (len(kernel_sizes) + 1),
            out_channels,
            1,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pooling(x) for pooling in self.poolings)], dim=1))


class CSPDarknet(nn.Module):
    """Stem and stages of cross stage partial blocks."""

    def __init__(
        self,
        *,
        arch: str = "P5",
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (2, 3, 4),
        frozen_stages: int = -1,
        use_depthwise: bool = False,
        arch_ovewrite: Sequence[Sequence] | None = None,
        spp_kernal_sizes: Sequence[int] = (5, 9, 13),
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = YOLO_BN,
        act_cfg: ActSpec | None = SWISH,
        norm_eval: bool = False,
        init_cfg: InitRules = YOLO_INIT,
    ) -> None:
        """Describe the backbone; two names carry the dialect's spelling.

        Args:
            arch: P5 (four stages) or P6 (five).
            deepen_factor: multiplies the blocks of each stage, at least one stays.
            widen_factor: multiplies all channels.
            out_indices: maps to return.
            frozen_stages: stages without gradients up to this one, 0 being the stem; -1 for none.
            use_depthwise: depthwise separable 3x3 convolutions.
            arch_ovewrite: stages instead of ``arch``: (in, out, blocks, add_identity, use_spp).
            spp_kernal_sizes: windows of the pooling pyramid.
            conv_cfg: convolutions.
            norm_cfg: norms.
            act_cfg: activations.
            norm_eval: batch norms keep their statistics in training.
            init_cfg: rules for the initial values.

        Raises:
            ConfigError: unknown ``arch``, or a stage that does not exist.
        """
        super().__init__()
        if arch not in ARCHITECTURES:
            raise ConfigError(f"CSPDarknet.arch: found {arch!r}; expected {' or '.join(ARCHITECTURES)}.")
        stages = [Stage(*s) for s in arch_ovewrite] if arch_ovewrite else ARCHITECTURES[arch]
        if frozen_stages not in range(-1, len(stages) + 1) or not set(out_indices) <= set(
            range(len(stages) + 1)
        ):
            raise ConfigError(
                f"CSPDarknet: found out_indices {tuple(out_indices)} and frozen_stages {frozen_stages}; "
                f"expected stages 0 to {len(stages)} (or -1 to freeze none)."
            )
        self.out_indices, self.frozen_stages = tuple(out_indices), frozen_stages
        self.norm_eval, self.init_cfg, self.use_depthwise = norm_eval, init_cfg, use_depthwise
        self._shared: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.stem = Focus(3, int(stages[0].in_channels * widen_factor), 3, **self._shared)
        self.layers = ["stem"]
        for i, stage in enumerate(stages):
            self.layers.append(f"stage{i + 1}")
            made = self._stage(stage, deepen_factor, widen_factor, spp_kernal_sizes)
            self.add_module(self.layers[-1], made)

    def _stage(
        self, stage: Stage, deepen_factor: float, widen_factor: float, pools: Sequence[int]
    ) -> nn.Sequential:
        """Halve the map, perhaps pool it, then blocks."""
        width = int(stage.out_channels * widen_factor)
        parts = [
            spatial_conv(
                int(stage.in_channels * widen_factor),
                width,
                stride=2,
                use_depthwise=self.use_depthwise,
                **self._shared,
            )
        ]
        if stage.use_spp:
            parts.append(SPPBottleneck(width, width, kernel_sizes=pools, **self._shared))
        parts.append(
            CSPLayer(
                width,
                width,
                num_blocks=max(round(stage.blocks * deepen_factor), 1),
                add_identity=stage.add_identity,
                use_depthwise=self.use_depthwise,
                **self._shared,
            )
        )
        return nn.Sequential(*parts)

    def init_weights(self) -> None:
        """Uniform Kaiming values unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def train(self, mode: bool = True) -> CSPDarknet:
        """Switch the mode; frozen stages and, with ``norm_eval``, batch norms stay in eval mode."""
        super().train(mode)
        for name in self.layers[: self.frozen_stages + 1]:
            freeze(getattr(self, name))
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives the maps of ``out_indices``."""
        maps = []
        for i, name in enumerate(self.layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                maps.append(x)
        return tuple(maps)
