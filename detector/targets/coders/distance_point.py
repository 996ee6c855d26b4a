"""Boxes as distances from a point to the four sides.

Shapes: N boxes.
Boxes: xyxy, pixels, no +1. Points: (x, y). Distances: left, top, right, bottom, in the unit of the boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor


class DistancePointBBoxCoder:
    """Between boxes and distances.

    Source: Tian et al., ICCV 2019, arXiv:1904.01355; checked against mmdet 2.28.2
        core/bbox/coder/distance_point_bbox_coder.py.
    """

    def __init__(self, *, clip_border: bool = True) -> None:
        """``clip_border`` allows ``decode`` to cut boxes at the image."""
        self.clip_border = clip_border

    def encode(
        self, points: Tensor, gt_boxes: Tensor, *, max_dis: float | None = None, eps: float = 0.1
    ) -> Tensor:
        """Distances (N, 4) from (N, 2) points to the sides of (N, 4) boxes.

        With ``max_dis`` they stay in [0, max_dis - eps].
        """
        distances = torch.cat((points - gt_boxes[:, :2], gt_boxes[:, 2:] - points), dim=1)
        return distances if max_dis is None else distances.clamp(min=0, max=max_dis - eps)

    def decode(self, points: Tensor, distances: Tensor, *, max_hw: tuple[int, int] | None = None) -> Tensor:
        """Boxes (N, 4) of (N, 2) points and (N, 4) distances.

        ``max_hw`` (height, width) is what to clip to, when ``clip_border`` is on; None does not clip.
        """
        boxes = torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)
        if not self.clip_border or max_hw is None:
            return boxes
        height, width = max_hw
        return torch.minimum(boxes.clamp(min=0), boxes.new_tensor((width, height, width, height)))
