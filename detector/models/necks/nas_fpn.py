"""NAS-FPN: a searched pyramid of merge cells, stacked.

Shapes: B images, L_in input maps of C_i channels, five output maps of ``out_channels`` channels.
Paper: Ghiasi et al., CVPR 2019, arXiv:1904.07392.
Attribute names are the checkpoint format (MMDetection 2.28, models/necks/nas_fpn.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.layers.merge_cells import GlobalPoolingCell, SumCell
from detector.structures.specs import InitSpec, NormSpec

CAFFE2_XAVIER_CONV = InitSpec(type="Caffe2Xavier", layer="Conv2d")
LEVELS = 5
# name (its digits are levels), first input, second input and output, in the order of the search's result
CELLS = (
    ("gp_64_4", "p6", "p4", "p4_1"),
    ("sum_44_4", "p4_1", "p4", "p4_2"),
    ("sum_43_3", "p4_2", "p3", "p3"),
    ("sum_34_4", "p3", "p4_2", "p4"),
    ("gp_43_5", "p4", "p3", "p5_1"),
    ("sum_55_5", "p5", "p5_1", "p5"),
    ("gp_54_7", "p5", "p4_2", "p7_1"),
    ("sum_77_7", "p7", "p7_1", "p7"),
    ("gp_75_6", "p7", "p5", "p6"),
)
_BARE = ("gp_43_5", "gp_54_7")  # their sum has the convolution


class NASFPN(nn.Module):
    """Pyramid of five levels, refined ``stack_times`` times."""

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        stack_times: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        norm_cfg: NormSpec | None = None,
        init_cfg: InitRules = CAFFE2_XAVIER_CONV,
    ) -> None:
        """Describe the pyramid.

        Args:
            in_channels: channels of every input map.
            out_channels: channels of every output map.
            num_outs: number of output maps, always 5.
            stack_times: how often the cells are stacked.
            start_level: first input map used.
            end_level: last input map used; -1 is the last one.
            add_extra_convs: taken for compatibility; extra levels are always convolved and pooled.
            norm_cfg: kind of norm.
            init_cfg: rules for the initial values.

        Raises:
            ConfigError: another number of levels.
        """
        super().__init__()
        last = len(in_channels) - 1 if end_level == -1 else end_level
        levels = last - start_level + 1
        if num_outs != LEVELS or not 0 < levels <= LEVELS:
            raise ConfigError(
                f"NASFPN: found num_outs={num_outs} and {levels} input levels; "
                f"expected {LEVELS} and at most as many."
            )
        self.start_level, self.last_level, self.init_cfg = start_level, last, init_cfg
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
            for width in in_channels[start_level : last + 1]
        )
        self.extra_downsamples = nn.ModuleList(
            nn.Sequential(
                ConvModule(out_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None),
                nn.MaxPool2d(2, 2),
            )
            for _ in range(LEVELS - levels)
        )
        self.fpn_stages = nn.ModuleList(
            nn.ModuleDict({name: _cell(name, out_channels, norm_cfg) for name, *_ in CELLS})
            for _ in range(stack_times)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L_in maps (B, C_i, H_i, W_i), fine to coarse, give five maps (B, out_channels, ...)."""
        used = inputs[self.start_level : self.last_level + 1]
        feats = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        for downsample in self.extra_downsamples:
            feats.append(downsample(feats[-1]))
        names = [f"p{3 + i}" for i in range(LEVELS)]
        sizes = {name: x.shape[2:] for name, x in zip(names, feats, strict=True)}
        maps = dict(zip(names, feats, strict=True))
        for stage in self.fpn_stages:
            for name, first, second, out in CELLS:
                cell = stage[name]  # type: ignore[index]
                maps[out] = cell(maps[first], maps[second], sizes[out[:2]])
        return tuple(maps[name] for name in names)

    def init_weights(self) -> None:
        """Caffe2's Xavier convolutions unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)


def _cell(name: str, channels: int, norm_cfg: NormSpec | None) -> nn.Module:
    kind = GlobalPoolingCell if name.startswith("gp") else SumCell
    return kind(channels, channels, with_out_conv=name not in _BARE, out_norm_cfg=norm_cfg)
