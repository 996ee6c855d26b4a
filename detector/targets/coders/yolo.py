"""Boxes as a place inside a grid cell and log-scale changes of the size.

Shapes: N boxes.
Boxes: xyxy, pixels, no +1. Codes: (x, y) in units of the cell, 0.5 being the anchor's centre, (w, h) natural
log of the size ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor


class YOLOBBoxCoder:
    """Encode and decode boxes against anchors in the middle of their cells.

    Source: Redmon et al., CVPR 2016, arXiv:1506.02640; checked against mmdet 2.28.2
        core/bbox/coder/yolo_bbox_coder.py.
    """

    def __init__(self, *, eps: float = 1e-6) -> None:
        """``eps`` keeps encoded centres inside (0, 1) and size ratios above 0."""
        self.eps = eps

    def encode(self, priors: Tensor, gt_boxes: Tensor, strides: Tensor) -> Tensor:
        """(N, 4) anchors, (N, 4) boxes and (N,) strides in pixels give (N, 4) codes."""
        shift = (gt_boxes[:, :2] + gt_boxes[:, 2:]) * 0.5 - (priors[:, :2] + priors[:, 2:]) * 0.5
        place = (shift / strides[:, None] + 0.5).clamp(min=self.eps, max=1 - self.eps)
        ratio = (gt_boxes[:, 2:] - gt_boxes[:, :2]) / (priors[:, 2:] - priors[:, :2])
        return torch.cat((place, ratio.clamp(min=self.eps).log()), dim=1)

    def decode(self, priors: Tensor, codes: Tensor, strides: Tensor) -> Tensor:
        """(N, 4) anchors, (..., N, 4) codes and (N,) strides give (..., N, 4) boxes, not clipped."""
        centre = (priors[:, :2] + priors[:, 2:]) * 0.5 + (codes[..., :2] - 0.5) * strides[:, None]
        half = (priors[:, 2:] - priors[:, :2]) * 0.5 * codes[..., 2:].exp()
        return torch.cat((centre - half, centre + half), dim=-1)
