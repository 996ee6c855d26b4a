"""Boxes as a bucket and an offset for each side.

Shapes: N boxes, S buckets of a side (half of all, rounded up).
Boxes: xyxy, pixels, no +1. Sides: left, right, top, bottom. Offsets are in units of a bucket's width or
height, counted against the coordinate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Buckets:
    """What the sides of N boxes should predict; every field (N, 4 * S), side by side.

    Attributes:
        offsets: from each bucket to the side of the ground truth.
        offset_weights: 1 for the nearest bucket and for further ones close enough.
        labels: 1 for the nearest bucket.
        label_weights: 0 for neighbours of the nearest bucket where they are ignored.
    """

    offsets: Tensor
    offset_weights: Tensor
    labels: Tensor
    label_weights: Tensor


class BucketingBBoxCoder:
    """Between boxes and buckets.

    Source: Wang et al., ECCV 2020, arXiv:1912.04260; checked against mmdet 2.28.2
        core/bbox/coder/bucketing_bbox_coder.py.
    """

    def __init__(
        self,
        *,
        num_buckets: int,
        scale_factor: float,
        offset_topk: int = 2,
        offset_upperbound: float = 1.0,
        cls_ignore_neighbor: bool = True,
        clip_border: bool = True,
    ) -> None:
        """Describe the buckets.

        Args:
            num_buckets: across a box, both sides together.
            scale_factor: how much larger than the box the bucketed area is.
            offset_topk: nearest buckets that learn an offset.
            offset_upperbound: largest offset of any but the nearest.
            cls_ignore_neighbor: leave close buckets out of the bucket loss.
            clip_border: let ``decode`` cut boxes at the image.
        """
        self.num_buckets, self.scale_factor, self.offset_topk = num_buckets, scale_factor, offset_topk
        self.offset_upperbound, self.cls_ignore_neighbor = offset_upperbound, cls_ignore_neighbor
        self.clip_border, self.side_num = clip_border, math.ceil(num_buckets / 2)

    def _area(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Outer sides (N, 4) of the bucketed area and the signed bucket size (N, 4) of each side."""
        centre, size = (boxes[:, :2] + boxes[:, 2:]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * self.scale_factor
        low, high = centre - 0.5 * size, centre + 0.5 * size
        outer = torch.stack((low[:, 0], high[:, 0], low[:, 1], high[:, 1]), dim=1)
        width, height = ((high - low) / self.num_buckets).unbind(dim=1)
        return outer, torch.stack((width, -width, height, -height), dim=1)

    def encode(self, boxes: Tensor, gt_boxes: Tensor) -> Buckets:
        """Targets that take (N, 4) boxes to (N, 4) ground truth."""
        outer, step = self._area(boxes.float())
        place = 0.5 + torch.arange(self.side_num, device=boxes.device)
        centres = outer[..., None] + place * step[..., None]  # (N, 4, S)
        wanted = gt_boxes.float()[:, [0, 2, 1, 3]]
        offsets = (centres - wanted[..., None]) / step.abs()[..., None]
        near, rank = offsets.abs().topk(self.offset_topk, dim=2, largest=False)
        close = near < self.offset_upperbound
        close[..., 0] = True
        labels = functional.one_hot(rank[..., 0], self.side_num).float()
        label_weights = torch.ones_like(labels)
        if self.cls_ignore_neighbor:
            label_weights[(offsets.abs() < 1) & (labels == 0)] = 0
        return Buckets(
            offsets=offsets.flatten(1),
            offset_weights=torch.zeros_like(offsets).scatter(2, rank, close.to(offsets)).flatten(1),
            labels=labels.flatten(1),
            label_weights=label_weights.flatten(1),
        )

    def decode(
        self, boxes: Tensor, logits: Tensor, offsets: Tensor, *, max_hw: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Boxes of predictions, and how sure their sides are.

        Args:
            boxes: (N, 4).
            logits: (N, 4 * S) of the buckets.
            offsets: (N, 4 * S).
            max_hw: (height, width) to clip to, the last pixel included, when ``clip_border`` is on.

        Returns:
            boxes (N, 4), and confidences (N,): the probability of the chosen bucket and of a neighbour that
            comes second, averaged over the sides.
        """
        outer, step = self._area(boxes)
        best, rank = logits.reshape(-1, 4, self.side_num).softmax(dim=2).topk(2, dim=2)
        chosen = offsets.reshape(-1, 4, self.side_num).gather(2, rank[..., :1])[..., 0]
        sides = outer + (0.5 + rank[..., 0]) * step - chosen * step.abs()
        if self.clip_border and max_hw is not None:
            height, width = max_hw
            last = sides.new_tensor((width - 1, width - 1, height - 1, height - 1))
            sides = torch.minimum(sides.clamp(min=0), last)
        adjacent = (rank[..., 0] - rank[..., 1]).abs() == 1
        confidence = (best[..., 0] + best[..., 1] * adjacent).mean(dim=1)
        return sides[:, [0, 2, 1, 3]], confidence
