"""VGG with the dilated convolutions of SSD in place of its classifier.

Shapes: B images of H x W; one ``features`` sequence whose indices name the outputs.
Boxes: none.
Paper: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325; VGG: Simonyan and
Zisserman, ICLR 2015, arXiv:1409.1556.
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/ssd_vgg.py and mmcv 1.7
cnn/vgg.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.init import InitRules, apply_rules
from detector.structures.specs import InitSpec

# depth -> convolutions of the five stages
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
DEFAULT_INIT = [
    InitSpec(type="Kaiming", layer="Conv2d"),
    InitSpec(type="Constant", val=1, layer="BatchNorm2d"),
    InitSpec(type="Normal", std=0.01, layer="Linear"),
]


class SSDVGG(nn.Module):
    """VGG 11, 13, 16 or 19 without norms, followed by a pooling that keeps the size and two convolutions."""

    def __init__(
        self,
        *,
        depth: int,
        with_last_pool: bool = False,
        ceil_mode: bool = True,
        out_indices: Sequence[int] = (3, 4),
        out_feature_indices: Sequence[int] = (22, 34),
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the network.

        Args:
            depth: number of weighted layers of the VGG.
            with_last_pool: keep the pooling that ends the last stage.
            ceil_mode: poolings round sizes up.
            out_indices: accepted for the dialect; ``out_feature_indices`` decides.
            out_feature_indices: entries of ``features`` whose output is returned.
            init_cfg: rules for the initial values, or a pretrained checkpoint.

        Raises:
            ConfigError: an unknown depth.
        """
        super().__init__()
        if depth not in STAGES:
            raise ConfigError(
                f"SSDVGG: unknown depth {depth}; expected one of {', '.join(map(str, STAGES))}."
            )
        self.out_feature_indices, self.init_cfg = tuple(out_feature_indices), init_cfg
        layers: list[nn.Module] = []
        width = 3
        for planes, count in zip(WIDTHS, STAGES[depth], strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(width, planes, 3, padding=1), nn.ReLU(inplace=True)]
                width = planes
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=ceil_mode))
        if not with_last_pool:
            layers.pop()
        layers += [
            nn.MaxPool2d(3, 1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(inplace=True),
        ]
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives the maps of ``out_feature_indices``."""
        outputs = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.out_feature_indices:
                outputs.append(x)
        return tuple(outputs)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Kaiming convolutions unless ``init_cfg`` says otherwise."""
        apply_rules(self, DEFAULT_INIT if self.init_cfg is None else self.init_cfg)
