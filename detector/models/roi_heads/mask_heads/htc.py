"""Mask head of Hybrid Task Cascade: the hidden features of one stage feed the next.

Shapes: K regions, C classes, P bins per side in, M = 2 P mask pixels per side out.
Paper: Chen et al., CVPR 2019, arXiv:1901.07518. Attribute names are the checkpoint format (MMDetection 2.28,
mask_heads/htc_mask_head.py).
"""

from __future__ import annotations

from torch import Tensor

from detector.layers.conv import ConvModule
from detector.layers.init import InitRules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.models.roi_heads.mask_heads.fcn import CONV, DECONV, FCNMaskHead
from detector.structures.specs import ConvSpec, NormSpec, PredictorSpec, UpsampleSpec


class HTCMaskHead(FCNMaskHead):
    """``FCNMaskHead`` that may add the features of the stage before to its own."""

    def __init__(
        self,
        *,
        with_conv_res: bool = True,
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
        """``with_conv_res`` builds the layer on the features before; the rest as in ``FCNMaskHead``."""
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
        self.with_conv_res = with_conv_res
        if with_conv_res:
            self.conv_res = ConvModule(
                conv_out_channels, conv_out_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg
            )

    def hidden_with(self, x: Tensor, before: Tensor | None) -> Tensor:
        """Hidden features (K, channels, P, P) of (K, in_channels, P, P) and those of the stage before.

        Raises:
            RuntimeError: there are features before but no layer for them (``with_conv_res=False``).
        """
        if before is None:
            return self.hidden(x)
        if not self.with_conv_res:
            raise RuntimeError("HTCMaskHead: features of the stage before need with_conv_res=True.")
        return self.hidden(x + self.conv_res(before))
