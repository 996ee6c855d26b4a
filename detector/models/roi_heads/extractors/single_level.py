"""Features of each region from the one pyramid level that fits its size.

Shapes: B images, L levels, K regions, C channels, P bins per side.
Boxes: regions are (K, 5): image index, then xyxy in pixels of the padded network input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.models.roi_heads.extractors.extractor import RoIExtractor, rescale_rois
from detector.ops.roi_align import roi_align
from detector.structures.specs import RoILayerSpec


def map_levels(rois: Tensor, *, num_levels: int, finest_scale: float) -> Tensor:
    """Level (K,) int64 of each region.

    Below ``2 * finest_scale`` pixels the finest, one more per doubling.
    """
    scale = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    return torch.log2(scale / finest_scale + 1e-6).floor().clamp(min=0, max=num_levels - 1).long()


class SingleRoIExtractor(RoIExtractor):
    """RoI pooling from one level per region. Holds no parameters.

    Source: Lin et al., CVPR 2017, arXiv:1612.03144; checked against mmdet 2.28.2
        roi_extractors/single_level_roi_extractor.py.
    """

    def __init__(
        self,
        *,
        roi_layer: RoILayerSpec,
        out_channels: int,
        featmap_strides: Sequence[int],
        finest_scale: float = 56,
    ) -> None:
        """``featmap_strides`` in pixels, one per level used; ``finest_scale`` as in ``map_levels``."""
        super().__init__(roi_layer=roi_layer, out_channels=out_channels, featmap_strides=featmap_strides)
        self.finest_scale = finest_scale

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, *, roi_scale_factor: float | None = None
    ) -> Tensor:
        """L maps (B, C, h, w) and (K, 5) regions give (K, C, P, P).

        Every level stays in the graph, also when unused.
        """
        if len(feats) == 1:
            return roi_align(feats[0], rois, self.roi_layer, spatial_scale=1 / self.featmap_strides[0])
        levels = map_levels(rois, num_levels=len(feats), finest_scale=self.finest_scale)
        if roi_scale_factor is not None:
            rois = rescale_rois(rois, roi_scale_factor)
        pooled, rows = [], []
        for i, feat in enumerate(feats):
            level_rows = torch.nonzero(levels == i).flatten()
            rows.append(level_rows)
            pooled.append(
                roi_align(feat, rois[level_rows], self.roi_layer, spatial_scale=1 / self.featmap_strides[i])
            )
        back = torch.cat(rows).argsort()
        return torch.cat(pooled)[back]
