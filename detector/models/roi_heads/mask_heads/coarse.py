"""Coarse mask head: linear layers on a small map, for PointRend to refine.

Shapes: K regions, C classes, P bins per side in, M = P / downsample_factor mask pixels per side out.
Paper: Kirillov et al., CVPR 2020, arXiv:1912.08193. Attribute names are the checkpoint format (MMDetection
2.28, mask_heads/coarse_mask_head.py).
"""

from __future__ import annotations

from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.models.roi_heads.mask_heads.fcn import CONV, FCNMaskHead
from detector.structures.specs import ConvSpec, InitSpec, NormSpec, PredictorSpec, UpsampleSpec

COARSE_INIT = InitSpec(
    type="Xavier", override=[{"name": "fcs"}, {"type": "Constant", "val": 0.001, "name": "fc_logits"}]
)


class CoarseMaskHead(FCNMaskHead):
    """Convolutions, a downsampling and linear layers to all mask pixels at once."""

    def __init__(
        self,
        *,
        loss_mask: CrossEntropyLoss,
        num_classes: int = 80,
        num_convs: int = 0,
        num_fcs: int = 2,
        fc_out_channels: int = 1024,
        downsample_factor: int = 2,
        roi_feat_size: int = 14,
        in_channels: int = 256,
        conv_kernel_size: int = 3,
        conv_out_channels: int = 256,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        predictor_cfg: PredictorSpec = CONV,
        init_cfg: InitRules = COARSE_INIT,
    ) -> None:
        """Numbers of linear layers and their width, and P / M; the rest as in ``FCNMaskHead``."""
        if num_fcs < 1 or downsample_factor < 1:
            raise ConfigError(
                f"CoarseMaskHead: found num_fcs={num_fcs}, downsample_factor={downsample_factor}; "
                "expected at least 1 each."
            )
        super().__init__(
            num_classes=num_classes,
            loss_mask=loss_mask,
            num_convs=num_convs,
            roi_feat_size=roi_feat_size,
            in_channels=in_channels,
            conv_kernel_size=conv_kernel_size,
            conv_out_channels=conv_out_channels,
            upsample_cfg=UpsampleSpec(type=None),
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            predictor_cfg=predictor_cfg,
            init_cfg=init_cfg,
        )
        del self.conv_logits  # no such layer in the checkpoints
        width = conv_out_channels if num_convs else in_channels
        self.downsample_conv: nn.Module | None = None
        if downsample_factor > 1:
            self.downsample_conv = ConvModule(
                width,
                conv_out_channels,
                downsample_factor,
                stride=downsample_factor,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
            )
            width = conv_out_channels
        self.mask_size = roi_feat_size // downsample_factor
        widths = [width * self.mask_size**2] + [fc_out_channels] * num_fcs
        self.fcs = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(num_fcs))
        self.fc_logits = nn.Linear(fc_out_channels, num_classes * self.mask_size**2)

    def forward(self, x: Tensor) -> Tensor:
        """(K, in_channels, P, P) gives logits (K, C, M, M)."""
        for conv in self.convs:
            x = conv(x)
        if self.downsample_conv is not None:
            x = self.downsample_conv(x)
        x = x.flatten(1)
        for fc in self.fcs:
            x = self.relu(fc(x))
        return self.fc_logits(x).reshape(len(x), self.num_classes, self.mask_size, self.mask_size)

    def init_weights(self) -> None:
        """Xavier linear layers and constant logits unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
