"""Semantic head of SCNet.

Shapes: as in ``FusedSemanticHead``.
Paper: Vu et al., AAAI 2021, arXiv:2012.10150. Attribute names are the checkpoint format (MMDetection 2.28,
mask_heads/scnet_semantic_head.py).
"""

from __future__ import annotations

from torch import nn

from detector.layers.init import InitRules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.models.roi_heads.mask_heads.fused_semantic import KAIMING_LOGITS, FusedSemanticHead
from detector.models.roi_heads.mask_heads.scnet_blocks import residual_convs
from detector.structures.specs import ConvSpec, NormSpec


class SCNetSemanticHead(FusedSemanticHead):
    """``FusedSemanticHead`` with residual blocks."""

    convs: nn.ModuleList | nn.Sequential  # type: ignore[assignment]

    def __init__(
        self,
        *,
        conv_to_res: bool = True,
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
        """``conv_to_res`` turns pairs of convolutions into residual blocks; the rest as in the base."""
        super().__init__(
            num_ins=num_ins,
            fusion_level=fusion_level,
            num_convs=num_convs,
            in_channels=in_channels,
            conv_out_channels=conv_out_channels,
            num_classes=num_classes,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            loss_seg=loss_seg,
            init_cfg=init_cfg,
        )
        if conv_to_res:
            self.convs = residual_convs(
                num_convs, in_channels, conv_out_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg
            )
