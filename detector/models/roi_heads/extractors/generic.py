"""Features of each region from all pyramid levels.

Shapes: B images, L levels, K regions, C channels, P bins per side.
Boxes: regions are (K, 5): image index, then xyxy in pixels of the padded network input.
Paper: Rossi et al., ICPR 2020, arXiv:2004.13665. Attribute names are the checkpoint format (MMDetection 2.28,
roi_extractors/generic_roi_extractor.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.plugins import Plugin
from detector.models.roi_heads.extractors.extractor import RoIExtractor, rescale_rois
from detector.ops.roi_align import roi_align
from detector.structures.specs import RoILayerSpec


class GenericRoIExtractor(RoIExtractor):
    """Pools every level, treats each, adds or stacks them and treats the result.

    With one level the pooled features come as they are.
    """

    def __init__(
        self,
        *,
        roi_layer: RoILayerSpec,
        out_channels: int,
        featmap_strides: Sequence[int],
        aggregation: str = "sum",
        pre_cfg: Plugin | nn.Module | None = None,
        post_cfg: Plugin | nn.Module | None = None,
    ) -> None:
        """Describe the extractor.

        Args:
            roi_layer: pooling of one level.
            out_channels: C of the result.
            featmap_strides: in input pixels, one per level used.
            aggregation: sum, or concat along the channels.
            pre_cfg: layer on the features of each level.
            post_cfg: layer on the joined features.
        """
        super().__init__(roi_layer=roi_layer, out_channels=out_channels, featmap_strides=featmap_strides)
        if aggregation not in ("sum", "concat"):
            raise ConfigError(
                f"GenericRoIExtractor: aggregation {aggregation!r}; expected 'sum' or 'concat'."
            )
        self.aggregation = aggregation
        self.with_pre, self.with_post = pre_cfg is not None, post_cfg is not None
        if post_cfg is not None:
            self.post_module = _layer(post_cfg, out_channels)
        if pre_cfg is not None:
            self.pre_module = _layer(pre_cfg, out_channels)

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, *, roi_scale_factor: float | None = None
    ) -> Tensor:
        """L maps (B, C, h, w) and (K, 5) regions give (K, C, P, P)."""
        if len(feats) == 1:
            return roi_align(feats[0], rois, self.roi_layer, spatial_scale=1 / self.featmap_strides[0])
        if roi_scale_factor is not None:
            rois = rescale_rois(rois, roi_scale_factor)
        pooled = []
        for feat, stride in zip(feats, self.featmap_strides, strict=True):
            x = roi_align(feat, rois, self.roi_layer, spatial_scale=1 / stride)
            pooled.append(self.pre_module(x) if self.with_pre and len(rois) else x)
        if self.aggregation == "concat":
            joined = torch.cat(pooled, dim=1)
        else:
            joined = pooled[0]
            for x in pooled[1:]:
                joined = joined + x
        return self.post_module(joined) if self.with_post and len(rois) else joined

    def init_weights(self) -> None:
        """Own values of the two layers."""
        for part in self.children():
            if hasattr(part, "init_weights"):
                part.init_weights()  # type: ignore[operator]


def _layer(part: Plugin | nn.Module, channels: int) -> nn.Module:
    return part if isinstance(part, nn.Module) else part.make(channels)
