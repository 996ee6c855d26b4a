"""Hands the features of SCNet's box head on to its mask head.

Shapes: K regions, P bins per side.
Paper: Vu et al., AAAI 2021, arXiv:2012.10150. Attribute names are the checkpoint format (MMDetection 2.28,
mask_heads/feature_relay_head.py).
"""

from __future__ import annotations

from torch import Tensor, nn

from detector.layers.init import InitRules, apply_rules
from detector.structures.specs import InitSpec

KAIMING_LINEAR = InitSpec(type="Kaiming", layer="Linear")


class FeatureRelayHead(nn.Module):
    """One linear layer to a small map, and its enlargement."""

    def __init__(
        self,
        *,
        in_channels: int = 1024,
        out_conv_channels: int = 256,
        roi_feat_size: int = 7,
        scale_factor: int = 2,
        init_cfg: InitRules = KAIMING_LINEAR,
    ) -> None:
        """Describe the head.

        Args:
            in_channels: width of the box head's shared features.
            out_conv_channels: channels of the map.
            roi_feat_size: P of the small map.
            scale_factor: how much larger the mask head's map is.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.shape, self.init_cfg = (out_conv_channels, roi_feat_size, roi_feat_size), init_cfg
        self.fc = nn.Linear(in_channels, out_conv_channels * roi_feat_size**2)
        self.upsample = nn.Upsample(scale_factor=scale_factor, mode="bilinear", align_corners=True)

    def init_weights(self) -> None:
        """Kaiming normal linear layer unless ``init_cfg`` says otherwise."""
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(K, in_channels) -> (K, out_conv_channels, P * scale, P * scale); K may be 0."""
        enlarged: Tensor = self.upsample(self.fc(x).reshape(len(x), *self.shape))
        return enlarged
