"""Boxes as shifts of the centre and log-scale changes of the size.

Shapes: N boxes, C classes.
Boxes: xyxy, pixels, no +1. Deltas: (dx, dy) in units of the prior's width and height, (dw, dh) natural log
of the size ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class DeltaXYWHBBoxCoder:
    """Encode and decode boxes against priors.

    Source: Girshick et al., CVPR 2014, arXiv:1311.2524; checked against mmdet 2.28.2
        core/bbox/coder/delta_xywh_bbox_coder.py.
    """

    def __init__(
        self,
        *,
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        clip_border: bool = True,
        add_ctr_clamp: bool = False,
        ctr_clamp: int = 32,
    ) -> None:
        """Deltas are normalised by mean and std.

        ``ctr_clamp`` limits centre shifts in pixels when switched on.
        """
        self.means, self.stds = tuple(target_means), tuple(target_stds)
        self.clip_border, self.add_ctr_clamp, self.ctr_clamp = clip_border, add_ctr_clamp, ctr_clamp

    def encode(self, priors: Tensor, gt_boxes: Tensor) -> Tensor:
        """Deltas (N, 4) that take (N, 4) priors to (N, 4) boxes; sides must be positive."""
        size, gt_size = priors[:, 2:] - priors[:, :2], gt_boxes[:, 2:] - gt_boxes[:, :2]
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
        """Apply deltas to priors.

        Args:
            priors: (N, 4).
            deltas: (N, 4) or (N, C * 4), one box per class.
            max_hw: (height, width) to clip to, when ``clip_border`` is on; None does not clip.
            wh_ratio_clip: sizes change at most by this factor or its inverse.

        Returns:
            (N, 4) or (N, C * 4) boxes.
        """
        columns = int(deltas.shape[1])
        d = deltas.reshape(-1, columns // 4, 4) * deltas.new_tensor(self.stds) + deltas.new_tensor(self.means)
        centre = ((priors[:, :2] + priors[:, 2:]) * 0.5)[:, None]
        size = (priors[:, 2:] - priors[:, :2])[:, None]
        limit = abs(math.log(wh_ratio_clip))
        shift, scale = size * d[..., :2], d[..., 2:]
        if self.add_ctr_clamp:
            shift, scale = shift.clamp(min=-self.ctr_clamp, max=self.ctr_clamp), scale.clamp(max=limit)
        else:
            scale = scale.clamp(min=-limit, max=limit)
        new_centre, half = centre + shift, size * scale.exp() * 0.5
        boxes = torch.cat((new_centre - half, new_centre + half), dim=-1)
        if self.clip_border and max_hw is not None:
            high = boxes.new_tensor((max_hw[1], max_hw[0], max_hw[1], max_hw[0]))
            boxes = torch.minimum(boxes.clamp(min=0), high)
        return boxes.reshape(-1, columns)
