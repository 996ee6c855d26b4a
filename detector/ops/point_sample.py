"""Values of feature maps at points.

Shapes: B maps, C channels, H x W pixels, K regions, P points of each.
Boxes: regions are (K, 5): image index, then xyxy in pixels of the network input.
Points: x, y as fractions of the map, or of the region where said; (0, 0) is the upper left corner.
Source: checked against mmcv 1.7 ops/point_sample.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def point_sample(features: Tensor, points: Tensor, *, align_corners: bool = False) -> Tensor:
    """Bilinear values, zero outside: (B, C, H, W) at (B, P, 2) gives (B, C, P)."""
    return grid_sample(features, points[:, :, None] * 2 - 1, align_corners=align_corners)[..., 0]


def region_to_map(points: Tensor, boxes: Tensor, map_hw: tuple[int, int], *, scale: float = 1.0) -> Tensor:
    """Points (K, P, 2) as fractions of boxes (K, 4) to fractions of a map; no gradient.

    Args:
        points: fractions of the boxes.
        boxes: xyxy in input pixels.
        map_hw: size of the map.
        scale: map pixels per input pixel.
    """
    size = boxes[:, None, 2:] - boxes[:, None, :2]
    pixels = points.detach() * size + boxes[:, None, :2]
    return pixels / pixels.new_tensor((map_hw[1], map_hw[0])) * scale


def sample_regions(
    features: Tensor, rois: Tensor, points: Tensor, *, scale: float, align_corners: bool = False
) -> Tensor:
    """Values at points given as fractions of regions.

    Args:
        features: (B, C, H, W).
        rois: (K, 5).
        points: (K, P, 2).
        scale: map pixels per input pixel.
        align_corners: whether the outermost values lie on the outermost pixels' centres.

    Returns:
        (K, C, P); K may be 0.
    """
    places = region_to_map(points, rois[:, 1:], features.shape[-2:], scale=scale)  # type: ignore[arg-type]
    rows, found = [], [features.new_zeros(0, features.shape[1], points.shape[1])]
    for image in range(len(features)):
        own = torch.nonzero(rois[:, 0].long() == image).flatten()
        if len(own):
            values = grid_sample(
                features[image][None], places[own][None] * 2 - 1, align_corners=align_corners
            )
            rows.append(own)
            found.append(values[0].transpose(0, 1))
    return torch.cat(found)[torch.cat(rows).argsort()] if rows else found[0]


def grid_points(size: tuple[int, int], device: torch.device) -> Tensor:
    """Centres (h * w, 2) of an h x w grid of cells, row by row."""
    y, x = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in size]
    return torch.stack((x.repeat(size[0]), y.repeat_interleave(size[1])), dim=1)


def simple_roi_align(
    features: Tensor, rois: Tensor, size: tuple[int, int], *, spatial_scale: float, aligned: bool = True
) -> Tensor:
    """One sample in the middle of each bin: (B, C, H, W) and (K, 5) give (K, C, h, w).

    Source: Kirillov et al., PointRend, CVPR 2020, arXiv:1912.08193.
    """
    points = grid_points(size, features.device).expand(len(rois), -1, -1)
    found = sample_regions(features, rois, points, scale=spatial_scale, align_corners=not aligned)
    return found.reshape(len(rois), features.shape[1], *size)
