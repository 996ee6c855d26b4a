"""RetinaNet's head: stacked convolutions, then class and box of every anchor.

Shapes: B images, L levels, A anchors per cell.
Boxes: xyxy, pixels of the padded network input.
Paper: Lin et al., ICCV 2017, arXiv:1708.02002. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/retina_head.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from detector.layers.conv import ConvModule
from detector.layers.init import InitRules
from detector.models.dense_heads.anchor_head import AnchorHead
from detector.structures.specs import ConvSpec, InitSpec, NormSpec
from detector.targets.priors.anchors import AnchorGenerator


def rare_class(layer: str) -> InitSpec:
    """Normal convolutions whose class layer starts at probability 0.01."""
    override = {"type": "Normal", "name": layer, "std": 0.01, "bias_prob": 0.01}
    return InitSpec(type="Normal", layer="Conv2d", std=0.01, override=override)


RARE_CLASS = rare_class("retina_cls")


def add_towers(head: AnchorHead, count: int, *, conv_cfg: ConvSpec | None, norm_cfg: NormSpec | None) -> None:
    """Attach ``cls_convs`` and ``reg_convs``, ``count`` 3x3 blocks each, the layout of most dense heads."""
    widths = [head.in_channels] + [head.feat_channels] * count
    for name in ("cls_convs", "reg_convs"):
        tower = nn.ModuleList(
            ConvModule(a, b, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg) for a, b in pairwise(widths)
        )
        head.add_module(name, tower)


def through(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    """The output of the last block; without blocks ``x`` itself."""
    for block in blocks:
        x = block(x)
    return x


class RetinaHead(AnchorHead):
    """Two towers shared by all levels."""

    cls_convs: nn.ModuleList
    reg_convs: nn.ModuleList

    def __init__(
        self,
        *,
        stacked_convs: int = 4,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        init_cfg: InitRules = RARE_CLASS,
        **kwargs: Any,
    ) -> None:
        """``stacked_convs`` blocks per tower; the rest as in ``AnchorHead``."""
        self.stacked_convs, self.conv_cfg, self.norm_cfg = stacked_convs, conv_cfg, norm_cfg
        super().__init__(init_cfg=init_cfg, **kwargs)

    @staticmethod
    def default_anchors() -> AnchorGenerator:
        """Three scales per octave, three ratios."""
        return AnchorGenerator(
            octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]
        )

    def _make_layers(self) -> None:
        add_towers(self, self.stacked_convs, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        self.retina_cls = nn.Conv2d(
            self.feat_channels, self.num_base_priors * self.cls_out_channels, 3, padding=1
        )
        self.retina_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * 4, 3, padding=1)

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives logits (B, A * channels, h, w) and deltas (B, A * 4, h, w)."""
        return self.retina_cls(through(self.cls_convs, x)), self.retina_reg(through(self.reg_convs, x))
