"""Semantic segmentation on all pyramid levels at once, whose features help boxes and masks.

Shapes: B images, L levels, C classes of the semantic map, h x w the level fused at, K regions, P bins per
side.
Paper: Chen et al., CVPR 2019, arXiv:1901.07518. Attribute names are the checkpoint format (MMDetection 2.28,
mask_heads/fused_semantic_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.structures.samples import Targets
from detector.structures.specs import ConvSpec, InitSpec, NormSpec

KAIMING_LOGITS = InitSpec(type="Kaiming", override={"name": "conv_logits"})


class FusedSemanticHead(nn.Module):
    """Levels added at one size, convolutions, then a class map and features."""

    def __init__(
        self,
        *,
        num_ins: int,
        fusion_level: int,
        num_convs: int = 4,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        num_classes: int = 183,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        loss_seg: CrossEntropyLoss | None = None,
        init_cfg: InitRules = KAIMING_LOGITS,
    ) -> None:
        """Describe the head.

        Args:
            num_ins: L.
            fusion_level: the level whose size counts.
            num_convs: convolutions after the sum.
            in_channels: channels of every level.
            conv_out_channels: channels of the convolutions and the features.
            num_classes: C.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            loss_seg: None is cross entropy of weight 0.2 that ignores label 255.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.fusion_level, self.num_classes, self.init_cfg = fusion_level, num_classes, init_cfg
        self.lateral_convs, self.convs = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_ins):
            self.lateral_convs.append(
                ConvModule(in_channels, in_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, inplace=False)
            )
        for i in range(num_convs):
            width = in_channels if i == 0 else conv_out_channels
            self.convs.append(
                ConvModule(width, conv_out_channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
            )
        self.conv_embedding = ConvModule(
            conv_out_channels, conv_out_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg
        )
        self.conv_logits = nn.Conv2d(conv_out_channels, num_classes, 1)
        self.criterion = loss_seg or CrossEntropyLoss(ignore_index=255, loss_weight=0.2)

    def init_weights(self) -> None:
        """Kaiming normal class layer unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L maps (B, in_channels, ...) give logits (B, C, h, w) and features (B, channels, h, w)."""
        x = self.lateral_convs[self.fusion_level](feats[self.fusion_level])
        size = x.shape[-2:]
        for i, (lateral, feat) in enumerate(zip(self.lateral_convs, feats, strict=True)):
            if i != self.fusion_level:
                x = x + lateral(functional.interpolate(feat, size=size, mode="bilinear", align_corners=True))
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(x), self.conv_embedding(x)

    def loss(self, logits: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Mean over all pixels of the batch, those to ignore counting as 0.

        Args:
            logits: (B, C, h, w).
            targets: with ``semantic`` of (h, w).

        Raises:
            RuntimeError: an image has no semantic map.
        """
        maps = [target.semantic for target in targets if target.semantic is not None]
        if len(maps) < len(targets):
            raise RuntimeError(
                "The model predicts a semantic map but the targets hold none; load with_seg=True and collect "
                "gt_semantic_seg."
            )
        loss: Tensor = self.criterion(logits, torch.stack(maps))
        return loss


def add_pooled(features: Tensor, pooled: Tensor) -> Tensor:
    """Add pooled semantic features (K, C, Q, Q) to region features (K, C, P, P), averaged down to P bins."""
    height, width = features.shape[-2:]
    if pooled.shape[-2:] != (height, width):
        pooled = functional.adaptive_avg_pool2d(pooled, (height, width))
    return features + pooled
