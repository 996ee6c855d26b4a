"""RetinaNet's head whose levels share convolutions but not norms.

Shapes: B images, L levels, A anchors per cell.
Boxes: xyxy, pixels of the padded network input.
Paper: Ghiasi et al., CVPR 2019, arXiv:1904.07392. Attribute names are the checkpoint format (MMDetection
2.28, models/dense_heads/retina_sepbn_head.py).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules, normal_
from detector.models.dense_heads.anchor_head import AnchorHead
from detector.models.dense_heads.retina import through
from detector.structures.specs import ConvSpec, InitSpec, NormSpec


class RetinaSepBNHead(AnchorHead):
    """Two towers per level; ``conv`` of every block is one module for all levels."""

    def __init__(
        self,
        *,
        num_ins: int,
        stacked_convs: int = 4,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        init_cfg: InitRules = None,
        **kwargs: Any,
    ) -> None:
        """``num_ins`` levels of ``stacked_convs`` blocks per tower; the rest as in ``AnchorHead``."""
        self.num_ins, self.stacked_convs = num_ins, stacked_convs
        self.conv_cfg, self.norm_cfg = conv_cfg, norm_cfg
        super().__init__(init_cfg=init_cfg, **kwargs)

    def _make_layers(self) -> None:
        self.cls_convs, self.reg_convs = self._level_towers(), self._level_towers()
        width = self.feat_channels
        self.retina_cls = nn.Conv2d(width, self.num_base_priors * self.cls_out_channels, 3, padding=1)
        self.retina_reg = nn.Conv2d(width, self.num_base_priors * 4, 3, padding=1)

    def _level_towers(self) -> nn.ModuleList:
        widths = [self.in_channels] + [self.feat_channels] * self.stacked_convs
        towers = nn.ModuleList()
        for level in range(self.num_ins):
            blocks = [
                ConvModule(a, b, 3, padding=1, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
                for a, b in pairwise(widths)
            ]
            if level:
                for block, first in zip(blocks, towers[0], strict=True):  # type: ignore[call-overload]
                    block.conv = first.conv
            towers.append(nn.ModuleList(blocks))
        return towers

    def init_weights(self) -> None:
        """Normal convolutions with std 0.01, classes starting at probability 0.01."""
        init_conv_modules(self)
        apply_rules(self, InitSpec(type="Normal", layer="Conv2d", std=0.01))
        apply_rules(self.retina_cls, InitSpec(type="Normal", layer="Conv2d", std=0.01, bias_prob=0.01))
        normal_(self.retina_reg, 0.01)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives logits (B, A * channels, h, w) and deltas (B, A * 4, h, w)."""
        cls_feat = through(self.cls_convs[level], x)  # type: ignore[arg-type]
        reg_feat = through(self.reg_convs[level], x)  # type: ignore[arg-type]
        return self.retina_cls(cls_feat), self.retina_reg(reg_feat)
