"""Mask head of SCNet.

Shapes: K regions, C classes, P bins per side in, M = 2 P mask pixels per side out.
Paper: Vu et al., AAAI 2021, arXiv:2012.10150. Attribute names are the checkpoint format (MMDetection 2.28,
mask_heads/scnet_mask_head.py).
"""

from __future__ import annotations

from torch import nn

from detector.errors import ConfigError
from detector.layers.init import InitRules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.models.roi_heads.mask_heads.fcn import CONV, DECONV, FCNMaskHead
from detector.models.roi_heads.mask_heads.scnet_blocks import residual_convs
from detector.structures.specs import ConvSpec, NormSpec, PredictorSpec, UpsampleSpec


class SCNetMaskHead(FCNMaskHead):
    """``FCNMaskHead`` with residual blocks."""

    convs: nn.ModuleList | nn.Sequential  # type: ignore[assignment]

    def __init__(
        self,
        *,
        conv_to_res: bool = True,
        num_classes: int = 80,
        loss_mask: CrossEntropyLoss,
        num_convs: int = 4,
        roi_feat_size: int = 14,
        in_channels: int = 256,
        conv_kernel_size: int = 3,
        conv_out_channels: int = 256,
        class_agnostic: bool = False,
        upsample_cfg: UpsampleSpec = DECONV,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        predictor_cfg: PredictorSpec = CONV,
        init_cfg: InitRules = None,
    ) -> None:
        """``conv_to_res`` turns pairs of convolutions into residual blocks; the rest as in ``FCNMaskHead``.

        Raises:
            ConfigError: residual blocks of another kernel than 3.
        """
        super().__init__(
            num_classes=num_classes,
            loss_mask=loss_mask,
            num_convs=num_convs,
            roi_feat_size=roi_feat_size,
            in_channels=in_channels,
            conv_kernel_size=conv_kernel_size,
            conv_out_channels=conv_out_channels,
            class_agnostic=class_agnostic,
            upsample_cfg=upsample_cfg,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            predictor_cfg=predictor_cfg,
            init_cfg=init_cfg,
        )
        if conv_to_res:
            if conv_kernel_size != 3:
                raise ConfigError(
                    f"SCNetMaskHead: conv_to_res needs conv_kernel_size 3, found {conv_kernel_size}."
                )
            self.convs = residual_convs(
                num_convs, in_channels, conv_out_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg
            )
