"""RoI pooling by name.

Shapes: B images, K regions of interest, C channels, P bins per side.
Boxes: regions are (K, 5): image index, then xyxy in pixels of the network input.
"""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor

from detector.ops.point_sample import simple_roi_align
from detector.ops.recording import is_recorded
from detector.ops.roi_bags import roi_align_by_bags
from detector.structures.specs import RoILayerSpec


def roi_align(features: Tensor, rois: Tensor, spec: RoILayerSpec, *, spatial_scale: float) -> Tensor:
    """Average bilinear samples of each bin: (B, C, H, W) and (K, 5) give (K, C, P, P); K may be 0.

    ``spatial_scale`` is feature pixels per input pixel; ``spec.sampling_ratio`` 0 samples adaptively.
    """
    ratio = spec.sampling_ratio if spec.sampling_ratio > 0 else -1
    size = spec.output_size if isinstance(spec.output_size, tuple) else (spec.output_size, spec.output_size)
    rois = rois.to(features)
    if spec.type == "SimpleRoIAlign":
        return simple_roi_align(features, rois, size, spatial_scale=spatial_scale, aligned=spec.aligned)
    if _by_bags(features):
        return roi_align_by_bags(
            features, rois, spatial_scale=spatial_scale, size=size, ratio=ratio, aligned=spec.aligned
        )
    return torchvision.ops.roi_align(
        features, rois, size, spatial_scale=spatial_scale, sampling_ratio=ratio, aligned=spec.aligned
    )


def _by_bags(features: Tensor) -> bool:
    """Whether bags are the better way, unless somebody records the operations.

    On a CPU they are faster; on a GPU torchvision's kernel adds gradients up in any order, and what it does
    instead in deterministic mode needs memory for every sample of every channel.
    """
    wanted = features.is_cpu or torch.are_deterministic_algorithms_enabled()
    return wanted and features.dtype in (torch.float32, torch.float64) and not is_recorded()


def boxes_to_rois(boxes_per_image: list[Tensor]) -> Tensor:
    """Prepend the image index: B tensors of (n, 4) or wider give (K, 5)."""
    return torch.cat(
        [torch.cat([torch.full_like(b[:, :1], i), b[:, :4]], dim=1) for i, b in enumerate(boxes_per_image)]
    )


def rows_per_image(rows: Tensor, counts: list[int]) -> tuple[Tensor, ...]:
    """Rows (K, ...) of a batch as one tensor per image, of ``counts`` rows each.

    Of one image they are not cut: their number may differ where a recording of this call is played back.
    """
    return (rows,) if len(counts) == 1 else rows.split(counts)
