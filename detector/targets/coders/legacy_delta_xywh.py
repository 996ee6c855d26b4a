"""The box coder of MMDetection 1.x, whose boxes include their last pixel.

Shapes: N boxes, C classes.
Boxes: xyxy, pixels, width = x2 - x1 + 1. Deltas as in ``DeltaXYWHBBoxCoder``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder


class LegacyDeltaXYWHBBoxCoder(DeltaXYWHBBoxCoder):
    """Encode and decode as models trained with MMDetection 1.x need it.

    Source: checked against mmdet 2.28.2 core/bbox/coder/legacy_delta_xywh_bbox_coder.py.
    """

    def __init__(
        self,
        *,
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    ) -> None:
        """Deltas are normalised by mean and std."""
        super().__init__(target_means=target_means, target_stds=target_stds)

    def encode(self, priors: Tensor, gt_boxes: Tensor) -> Tensor:
        """Deltas (N, 4) that take (N, 4) priors to (N, 4) boxes."""
        size, gt_size = priors[:, 2:] - priors[:, :2] + 1, gt_boxes[:, 2:] - gt_boxes[:, :2] + 1
        shift = ((gt_boxes[:, :2] + gt_boxes[:, 2:]) * 0.5 - (priors[:, :2] + priors[:, 2:]) * 0.5) / size
        deltas = torch.cat((shift, torch.log(gt_size / size)), dim=1)
        return (deltas - deltas.new_tensor(self.means)) / deltas.new_tensor(self.stds)

    def decode(
        self,
        priors: Tensor,
        deltas: Tensor,
        *,
        max_hw: tuple[int, int] | None = None,
        wh_ratio_clip: float = 16 / 1000,
    ) -> Tensor:
        """Apply deltas to priors; the sides of the result are a pixel longer than the size they stand for.

        Args:
            priors: (N, 4).
            deltas: (N, 4) or (N, C * 4), one box per class.
            max_hw: (height, width); boxes are clipped to the last pixel. None does not clip.
            wh_ratio_clip: sizes change at most by this factor or its inverse.

        Returns:
            (N, 4) or (N, C * 4) boxes.
        """
        rows, columns = deltas.shape
        d = deltas.reshape(rows, columns // 4, 4) * deltas.new_tensor(self.stds) + deltas.new_tensor(
            self.means
        )
        limit = abs(math.log(wh_ratio_clip))
        size = (priors[:, 2:] - priors[:, :2] + 1)[:, None]
        centre = ((priors[:, :2] + priors[:, 2:]) * 0.5)[:, None] + size * d[..., :2]
        half = size * d[..., 2:].clamp(min=-limit, max=limit).exp() * 0.5
        boxes = torch.cat((centre - half, centre + half), dim=-1)
        if max_hw is not None:
            high = boxes.new_tensor((max_hw[1], max_hw[0], max_hw[1], max_hw[0])) - 1
            boxes = torch.minimum(boxes.clamp(min=0), high)
        return boxes.reshape(rows, columns)
