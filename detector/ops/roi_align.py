"""RoI pooling by name.

Shapes: B images, K regions of interest, C channels, P bins per side.
Boxes: regions are (K, 5): image index, then xyxy in pixels of the network input.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
    if _plain(features, rois):
        return roi_align_by_bags(
            features, rois, spatial_scale=spatial_scale, size=size, ratio=ratio, aligned=spec.aligned
        )
    if features.is_cpu and torch.get_num_threads() > 1 and not is_recorded():
        pooled: Tensor = _ThreadedRoIAlign.apply(features, rois, spatial_scale, size, ratio, spec.aligned)
        return pooled
    return torchvision.ops.roi_align(
        features, rois, size, spatial_scale=spatial_scale, sampling_ratio=ratio, aligned=spec.aligned
    )


def _plain(features: Tensor, rois: Tensor) -> bool:
    """Whether it is inference in float32 on a CPU, and nobody records the operations."""
    with_gradient = torch.is_grad_enabled() and (features.requires_grad or rois.requires_grad)
    return features.is_cpu and features.dtype == torch.float32 and not with_gradient and not is_recorded()


class _ThreadedRoIAlign(torch.autograd.Function):
    """torchvision's RoIAlign for training, whose CPU kernels use one core, on all of them; the same bits.

    Regions are independent going forward, channels going backward. Measured on two cores with 512 regions of
    128 channels: forward 57 to 32 ms, backward 203 to 120 ms.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        rois: Tensor,
        spatial_scale: float,
        size: tuple[int, int],
        ratio: int,
        aligned: bool,
    ) -> Tensor:
        """Pool the regions in parts, one thread each."""
        ctx.save_for_backward(rois)
        ctx.settings = (spatial_scale, *size), features.shape, (ratio, aligned)
        pool = functools.partial(
            torchvision.ops.roi_align, features, output_size=size, spatial_scale=spatial_scale,
            sampling_ratio=ratio, aligned=aligned,
        )  # fmt: skip
        return torch.cat(list(_threads().map(pool, rois.chunk(torch.get_num_threads()))))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradient of the features, channels in parts, one thread each."""
        (rois,) = ctx.saved_tensors
        (scale, height, width), shape, last = ctx.settings

        def scatter(part: Tensor) -> Tensor:
            batch, _, rows, columns = shape
            found: Tensor = torch.ops.torchvision._roi_align_backward(
                part, rois, scale, height, width, batch, part.shape[1], rows, columns, *last
            )
            return found

        parts = gradients[0].chunk(torch.get_num_threads(), dim=1)
        return torch.cat(list(_threads().map(scatter, parts)), dim=1), None, None, None, None, None


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="roi_align")


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
