"""NAS-FCOS: FCOS with searched towers.

Shapes: B images, L levels.
Boxes: xyxy, pixels of the padded network input.
Paper: Wang et al., CVPR 2020, arXiv:1906.04423. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/nasfcos_head.py).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from detector.layers.conv import ConvModule
from detector.layers.init import InitRules
from detector.models.dense_heads.fcos import FCOSHead
from detector.structures.specs import ConvSpec, InitSpec

PLAIN = ConvSpec(type="Conv")
DEFORMABLE = ConvSpec(type="DCNv2", deform_groups=2)
# convolution, kernel size, bias
LAYERS = ((DEFORMABLE, 3, True), (PLAIN, 3, False), (DEFORMABLE, 3, True), (PLAIN, 1, False))
NAS_INIT = [
    InitSpec(type="Caffe2Xavier", layer="Conv2d"),
    InitSpec(
        type="Normal",
        std=0.01,
        override=[
            {"name": "conv_reg"},
            {"name": "conv_centerness"},
            {"name": "conv_cls", "type": "Normal", "std": 0.01, "bias_prob": 0.01},
        ],
    ),
]


class NASFCOSHead(FCOSHead):
    """Towers of a deformable, a plain, a deformable and a 1x1 convolution."""

    def __init__(self, *, init_cfg: InitRules = None, **kwargs: Any) -> None:
        """``init_cfg`` None means the head's own rules; the rest as in ``FCOSHead``."""
        super().__init__(init_cfg=NAS_INIT if init_cfg is None else init_cfg, **kwargs)

    def _tower(self) -> nn.ModuleList:
        return nn.ModuleList(
            ConvModule(
                self.in_channels if i == 0 else self.feat_channels,
                self.feat_channels,
                size,
                padding=size // 2,
                bias=bias,
                conv_cfg=conv_cfg,
                norm_cfg=self.norm_cfg,
            )
            for i, (conv_cfg, size, bias) in enumerate(LAYERS)
        )
