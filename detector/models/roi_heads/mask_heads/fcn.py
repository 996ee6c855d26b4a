"""Fully convolutional mask head.

Shapes: K regions, C classes, P bins per side in, M = 2 P mask pixels per side out.
Paper: He et al., ICCV 2017, arXiv:1703.06870. Attribute names are the checkpoint format (MMDetection 2.28,
mask_heads/fcn_mask_head.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.layers.normed import make_last_conv
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.structures.specs import ConvSpec, NormSpec, PredictorSpec, UpsampleSpec

DECONV = UpsampleSpec(type="deconv", scale_factor=2)
CONV = PredictorSpec(type="Conv")


class FCNMaskHead(nn.Module):
    """Convolutions, an upsampling and one mask per class."""

    def __init__(
        self,
        *,
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
        """Describe the head.

        Args:
            num_classes: classes without background.
            loss_mask: loss of the region's own class.
            num_convs: hidden convolutions.
            roi_feat_size: P; kept for the dialect.
            in_channels: channels of the region features.
            conv_kernel_size: of the hidden convolutions.
            conv_out_channels: channels of the hidden convolutions.
            class_agnostic: one mask per region.
            upsample_cfg: type deconv, nearest, bilinear or None.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            predictor_cfg: kind of the last layer.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        if upsample_cfg.type not in (None, "deconv", "nearest", "bilinear"):
            raise ConfigError(
                f"FCNMaskHead: upsample_cfg type {upsample_cfg.type!r}; "
                "expected deconv, nearest, bilinear or None."
            )
        self.num_classes, self.class_agnostic, self.loss_mask, self.init_cfg = (
            num_classes,
            class_agnostic,
            loss_mask,
            init_cfg,
        )
        self.convs = nn.ModuleList()
        for i in range(num_convs):
            width = in_channels if i == 0 else conv_out_channels
            padding = (conv_kernel_size - 1) // 2
            self.convs.append(
                ConvModule(
                    width,
                    conv_out_channels,
                    conv_kernel_size,
                    padding=padding,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg,
                )
            )
        width = conv_out_channels if num_convs else in_channels
        scale = int(upsample_cfg.scale_factor or 2)
        self.upsample: nn.Module | None = None
        if upsample_cfg.type == "deconv":
            self.upsample = nn.ConvTranspose2d(width, conv_out_channels, scale, stride=scale)
            width = conv_out_channels
        elif upsample_cfg.type is not None:
            align = None if upsample_cfg.type == "nearest" else False
            self.upsample = nn.Upsample(scale_factor=scale, mode=upsample_cfg.type, align_corners=align)
        self._activate = upsample_cfg.type == "deconv"
        self.conv_logits = make_last_conv(predictor_cfg, width, 1 if class_agnostic else num_classes)
        self.relu = nn.ReLU(inplace=True)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Kaiming normal (fan out) layers with zero bias, then ``init_cfg``."""
        init_conv_modules(self)
        for layer in (self.upsample, self.conv_logits):
            if isinstance(layer, (nn.ConvTranspose2d, nn.Conv2d)):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def hidden(self, x: Tensor) -> Tensor:
        """(K, in_channels, P, P) gives the features (K, conv_out_channels, P, P) of the last convolution."""
        for conv in self.convs:
            x = conv(x)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Hidden features (K, conv_out_channels, P, P) give logits (K, C or 1, M, M)."""
        if self.upsample is not None:
            x = self.upsample(x)
            x = self.relu(x) if self._activate else x
        return self.conv_logits(x)

    def forward(self, x: Tensor) -> Tensor:
        """(K, in_channels, P, P) gives logits (K, C or 1, M, M)."""
        return self.logits(self.hidden(x))

    def loss(self, mask_pred: Tensor, targets: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean over the pixels of the regions' own masks; 0 (with gradients) without regions.

        Args:
            mask_pred: (K, C or 1, M, M) logits.
            targets: (K, M, M) 0/1.
            labels: (K,) int64.
        """
        if len(mask_pred) == 0:
            return {"loss_mask": mask_pred.sum()}
        channel = torch.zeros_like(labels) if self.class_agnostic else labels
        return {"loss_mask": self.loss_mask.mask_loss(mask_pred, targets, channel)}

    def select(self, mask_pred: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (K, M, M) of each region's own class."""
        channel = torch.zeros_like(labels) if self.class_agnostic else labels
        return mask_pred[torch.arange(len(labels), device=labels.device), channel].float().sigmoid()
