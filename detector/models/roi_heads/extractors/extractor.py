"""What every region extractor offers.

Shapes: B images, L levels, K regions, C channels, P bins per side.
Boxes: regions are (K, 5): image index, then xyxy in pixels of the padded network input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detector.structures.specs import RoILayerSpec


class RoIExtractor(nn.Module):
    """Features of regions from one or more feature maps."""

    def __init__(self, *, roi_layer: RoILayerSpec, out_channels: int, featmap_strides: Sequence[int]) -> None:
        """``featmap_strides`` in input pixels, one per level used."""
        super().__init__()
        self.roi_layer, self.out_channels = roi_layer, out_channels
        self.featmap_strides = tuple(featmap_strides)

    @property
    def num_inputs(self) -> int:
        """Number of feature levels used."""
        return len(self.featmap_strides)

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, *, roi_scale_factor: float | None = None
    ) -> Tensor:
        """L maps (B, C, h, w) and (K, 5) regions, grown by the factor, give (K, C, P, P)."""
        raise NotImplementedError


def rescale_rois(rois: Tensor, factor: float) -> Tensor:
    """Grow (K, 5) regions about their centres."""
    centre, half = (rois[:, 1:3] + rois[:, 3:]) * 0.5, (rois[:, 3:] - rois[:, 1:3]) * factor * 0.5
    return torch.cat((rois[:, :1], centre - half, centre + half), dim=1)
