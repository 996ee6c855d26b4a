"""Feature pyramid grids: parallel pyramid pathways with connections along and across them.

Shapes: B images, L_in input maps of C_i channels, ``num_outs`` output maps of ``out_channels`` channels.
Paper: Chen et al., 2020, arXiv:2004.03580.
Attribute names are the checkpoint format (MMDetection 2.28, models/necks/fpg.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import RELU, ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.layers.pre_activation import PreActConvModule
from detector.structures.specs import ActSpec, ConvSpec, InitSpec, NormSpec, Spec

DEFAULT_INIT = [
    InitSpec(type="Caffe2Xavier", layer="Conv2d"),
    InitSpec(type="Constant", layer=("_BatchNorm", "_InstanceNorm", "GroupNorm", "LayerNorm"), val=1.0),
]
_ORDERS = {("conv", "norm", "act"): ConvModule, ("act", "conv", "norm"): PreActConvModule}


@dataclass(frozen=True)
class TransitionSpec(Spec):
    """A connection of the grid.

    Attributes:
        type: conv; interpolation_conv (enlarge, then convolve); last_conv (convolve the last pathway's map);
            identity.
        kernel_size: side of the kernel.
        stride: stride of a conv.
        padding: padding of a conv; the other types keep the size.
        conv_cfg: kind of convolution.
        norm_cfg: kind of norm.
        act_cfg: activation.
        inplace: the activation writes over its input.
        order: conv, norm, act or act, conv, norm.
        mode: interpolation.
        scale_factor: factor of the interpolation.
        align_corners: of a linear interpolation.

    Raises:
        ConfigError: unknown type or order.
    """

    type: str
    kernel_size: int = 3
    stride: int = 1
    padding: int = 0
    conv_cfg: ConvSpec | None = None
    norm_cfg: NormSpec | None = None
    act_cfg: ActSpec | None = RELU
    inplace: bool = True
    order: Sequence[str] = ("conv", "norm", "act")
    mode: str = "nearest"
    scale_factor: float = 2
    align_corners: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what no transition offers."""
        types = ("conv", "interpolation_conv", "last_conv", "identity")
        if self.type not in types or tuple(self.order) not in _ORDERS:
            raise ConfigError(
                f"FPG: found transition type {self.type!r} with order {tuple(self.order)}; expected one of "
                f"{', '.join(types)} with one of {list(_ORDERS)}."
            )

    def block(self, in_channels: int, out_channels: int, *, same_size: bool) -> ConvModule:
        """The convolution block; ``same_size`` overrules stride and padding."""
        kind = _ORDERS[(self.order[0], self.order[1], self.order[2])]
        return kind(
            in_channels,
            out_channels,
            self.kernel_size,
            stride=1 if same_size else self.stride,
            padding=(self.kernel_size - 1) // 2 if same_size else self.padding,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
            inplace=self.inplace,
        )


class UpInterpolationConv(nn.Module):
    """Enlarge, then convolve."""

    def __init__(self, spec: TransitionSpec, in_channels: int, out_channels: int) -> None:
        """``spec`` of type interpolation_conv."""
        super().__init__()
        self.scale_factor, self.mode, self.align_corners = spec.scale_factor, spec.mode, spec.align_corners
        self.conv = spec.block(in_channels, out_channels, same_size=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, factor * H, factor * W)."""
        grown = functional.interpolate(
            x, scale_factor=self.scale_factor, mode=self.mode, align_corners=self.align_corners
        )
        return self.conv(grown)


class LastConv(nn.Module):
    """Convolve what the last pathway gives."""

    def __init__(self, spec: TransitionSpec, in_channels: int, out_channels: int) -> None:
        """``spec`` of type last_conv."""
        super().__init__()
        self.conv_out = spec.block(in_channels, out_channels, same_size=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return self.conv_out(x)


def make_transition(spec: TransitionSpec, in_channels: int, out_channels: int) -> nn.Module:
    """Build a connection of the grid."""
    if spec.type == "identity":
        return nn.Identity()
    if spec.type == "interpolation_conv":
        return UpInterpolationConv(spec, in_channels, out_channels)
    if spec.type == "last_conv":
        return LastConv(spec, in_channels, out_channels)
    return spec.block(in_channels, out_channels, same_size=False)


SAME_UP = TransitionSpec(type="conv", kernel_size=3, stride=2, padding=1)
ACROSS_LATERAL = TransitionSpec(type="conv", kernel_size=1)
ACROSS_DOWN = TransitionSpec(type="conv", kernel_size=3)
ACROSS_SKIP = TransitionSpec(type="identity")
OUTPUT = TransitionSpec(type="last_conv", kernel_size=3)


class FPG(nn.Module):
    """Grid of ``stack_times`` pathways.

    Each level of a pathway sums: its neighbour in the pathway (same), the level itself (lateral) and its
    neighbours (across up and down) in the pathway before, and the level of the input pyramid (skip).
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        stack_times: int,
        paths: Sequence[str],
        inter_channels: int | Sequence[int] | None = None,
        same_down_trans: TransitionSpec | None = None,
        same_up_trans: TransitionSpec | None = SAME_UP,
        across_lateral_trans: TransitionSpec | None = ACROSS_LATERAL,
        across_down_trans: TransitionSpec | None = ACROSS_DOWN,
        across_up_trans: TransitionSpec | None = None,
        across_skip_trans: TransitionSpec | None = ACROSS_SKIP,
        output_trans: TransitionSpec = OUTPUT,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool = False,
        norm_cfg: NormSpec | None = None,
        skip_inds: Sequence[Sequence[int]] | None = None,
        init_cfg: InitRules = DEFAULT_INIT,
    ) -> None:
        """Describe the grid.

        Args:
            in_channels: channels of every input map.
            out_channels: channels of every output map.
            num_outs: number of output maps.
            stack_times: number of pathways.
            paths: bu (bottom-up) or td (top-down) for each pathway.
            inter_channels: channels inside the grid, of all levels or of each; default ``out_channels``.
            same_down_trans: from the coarser level of a top-down pathway.
            same_up_trans: from the finer level of a bottom-up pathway.
            across_lateral_trans: from the same level of the pathway before.
            across_down_trans: from the coarser level of the pathway before.
            across_up_trans: from the finer level of the pathway before.
            across_skip_trans: from the input pyramid.
            output_trans: after the last pathway.
            start_level: first input map used.
            end_level: last input map used; -1 is the last one.
            add_extra_convs: convolve the coarsest map for extra levels instead of subsampling it.
            norm_cfg: taken for compatibility; each transition has its own.
            skip_inds: for each level the pathways that leave it as it is; default none.
            init_cfg: rules for the initial values.

        Raises:
            ConfigError: settings that do not fit one another.
        """
        super().__init__()
        last = len(in_channels) - 1 if end_level == -1 else end_level
        levels = last - start_level + 1
        skip = [tuple(indices) for indices in skip_inds] if skip_inds is not None else [()] * num_outs
        widths = _widths(inter_channels, out_channels, num_outs)
        if len(paths) != stack_times or not set(paths) <= {"bu", "td"}:
            raise ConfigError(f"FPG: found paths={list(paths)}; expected {stack_times} of 'bu' or 'td'.")
        if not len(skip) == len(widths) == num_outs or num_outs < levels:
            raise ConfigError(
                f"FPG: found {len(skip)} skip_inds, {len(widths)} inter_channels and {levels} input levels; "
                f"expected num_outs = {num_outs} of the first two and at most as many levels."
            )
        self.start_level, self.last_level, self.num_outs = start_level, last, num_outs
        self.paths, self.init_cfg = tuple(paths), init_cfg
        self.lateral_convs = nn.ModuleList(
            nn.Conv2d(in_channels[start_level + i], widths[i], 1) for i in range(levels)
        )
        self.extra_downsamples = nn.ModuleList(
            nn.Conv2d(widths[i - 1], widths[i], 3, stride=2, padding=1)
            if add_extra_convs
            else nn.MaxPool2d(1, stride=2)
            for i in range(levels, num_outs)
        )
        sources = {
            "same_up": (same_up_trans, -1),
            "same_down": (same_down_trans, 1),
            "across_lateral": (across_lateral_trans, 0),
            "across_down": (across_down_trans, 1),
            "across_up": (across_up_trans, -1),
            "across_skip": (across_skip_trans, 0),
        }
        self.fpn_transitions = nn.ModuleList(
            nn.ModuleList(
                _node(sources, widths, level) if pathway not in skip[level] else nn.ModuleDict()
                for level in range(num_outs)
            )
            for pathway in range(stack_times)
        )
        self.output_transition = nn.ModuleList(
            make_transition(output_trans, width, out_channels) for width in widths
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L_in maps (B, C_i, H_i, W_i), fine to coarse, give ``num_outs`` maps (B, out_channels, ...)."""
        used = inputs[self.start_level : self.last_level + 1]
        first = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        for downsample in self.extra_downsamples:
            first.append(downsample(first[-1]))
        maps = first
        for direction, nodes in zip(self.paths, self.fpn_transitions, strict=True):
            maps = self._pathway(direction, list(nodes), maps, first)  # type: ignore[call-overload]
        return tuple(out(x) for out, x in zip(self.output_transition, maps, strict=True))

    @staticmethod
    def _pathway(
        direction: str, nodes: Sequence[nn.Module], before: Sequence[Tensor], first: Sequence[Tensor]
    ) -> list[Tensor]:
        """Maps of one pathway, from those of the one before and the input pyramid."""
        count = len(nodes)
        same, step = ("same_up", -1) if direction == "bu" else ("same_down", 1)
        done: dict[int, Tensor] = {}
        for level in range(count) if direction == "bu" else reversed(range(count)):
            node = nodes[level]
            sources = {
                same: done.get(level + step),
                "across_lateral": before[level],
                "across_up": before[level - 1] if level > 0 else None,
                "across_down": before[level + 1] if level + 1 < count else None,
                "across_skip": first[level],
            }
            parts = [node[k](x) for k, x in sources.items() if x is not None and k in node]  # type: ignore[index,operator]
            done[level] = sum(parts[1:], parts[0]) if parts else before[level]
        return [done[level] for level in range(count)]

    def init_weights(self) -> None:
        """Caffe2's Xavier convolutions and unit norms unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)


def _widths(inter: int | Sequence[int] | None, out_channels: int, num_outs: int) -> list[int]:
    """Channels inside the grid, level by level."""
    if inter is None or isinstance(inter, int):
        return [inter or out_channels] * num_outs
    return list(inter)


def _node(
    sources: dict[str, tuple[TransitionSpec | None, int]], widths: Sequence[int], level: int
) -> nn.ModuleDict:
    """Connections that end at one level of one pathway; ``sources`` gives each one's start level."""
    return nn.ModuleDict(
        {
            name: make_transition(spec, widths[level + step], widths[level])
            for name, (spec, step) in sources.items()
            if spec is not None and 0 <= level + step < len(widths)
        }
    )
