"""Overlaps between boxes.

Shapes: N and M boxes.
Boxes: xyxy, any one frame, no +1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.structures.boxes import area


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(a: Tensor, b: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Intersection over union of every pair: (N, 4) and (M, 4) give (N, M) in [0, 1]; either may be empty."""
    overlap = _intersection(a[:, None], b[None])
    union = area(a)[:, None] + area(b)[None] - overlap
    return overlap / union.clamp(min=eps)


def pairwise_iof(a: Tensor, b: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Intersection over the area of ``a``: (N, 4) and (M, 4) give (N, M) in [0, 1]."""
    return _intersection(a[:, None], b[None]) / area(a)[:, None].clamp(min=eps)


def aligned_iou(a: Tensor, b: Tensor, *, eps: float = 1e-6) -> Tensor:
    """IoU of row i of ``a`` with row i of ``b``: (N, 4) twice give (N,)."""
    overlap = _intersection(a, b)
    return overlap / (area(a) + area(b) - overlap).clamp(min=eps)


def aligned_giou(a: Tensor, b: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Generalised IoU in [-1, 1] of row i with row i: (N, 4) twice give (N,).

    Source: Rezatofighi et al., CVPR 2019, arXiv:1902.09630.
    """
    overlap = _intersection(a, b)
    union = (area(a) + area(b) - overlap).clamp(min=eps)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0)
    hull_area = (hull[:, 0] * hull[:, 1]).clamp(min=eps)
    return overlap / union - (hull_area - union) / hull_area
