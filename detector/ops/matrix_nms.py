"""Suppression of overlapping masks by decaying scores, all at once.

Shapes: N masks of h x w.
Paper: Wang et al., "SOLOv2", NeurIPS 2020, arXiv:2003.10152; checked against mmdet 2.28.2
core/post_processing/matrix_nms.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_nms(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    *,
    kernel: str = "gaussian",
    sigma: float = 2.0,
    filter_thr: float = -1.0,
    nms_pre: int = -1,
    max_num: int = -1,
) -> tuple[Tensor, Tensor]:
    """Lower each score by the worst overlap with a better mask of its class.

    Args:
        masks: (N, h, w) bool or 0/1.
        labels: (N,) int64.
        scores: (N,) in [0, 1].
        kernel: gaussian or linear.
        sigma: strength of the gaussian kernel.
        filter_thr: least decayed score, where above 0.
        nms_pre: most masks to compare, where above 0.
        max_num: most masks to return, where above 0.

    Returns:
        rows (K,) int64 by descending decayed score, and those scores (K,).

    Raises:
        ValueError: an unknown kernel.
    """
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"matrix_nms: unknown kernel {kernel!r}; expected gaussian or linear.")
    scores, rows = scores.sort(descending=True, stable=True)
    if not len(rows):
        return rows, scores
    if nms_pre > 0:
        rows, scores = rows[:nms_pre], scores[:nms_pre]
    flat, labels = masks[rows].flatten(1).float(), labels[rows]
    common, area = flat @ flat.T, flat.sum(dim=1)
    rival = (labels[:, None] == labels[None]).triu(diagonal=1)
    iou = torch.where(rival, common / (area[:, None] + area[None] - common), 0.0)
    worst = iou.max(dim=0).values[:, None]  # how much the better mask was itself overlapped
    if kernel == "gaussian":
        decay = torch.exp(-sigma * iou**2) / torch.exp(-sigma * worst**2)
    else:
        decay = (1 - iou) / (1 - worst)
    scores = scores * decay.min(dim=0).values
    if filter_thr > 0:
        keep = scores >= filter_thr
        rows, scores = rows[keep], scores[keep]
    scores, order = scores.sort(descending=True, stable=True)
    rows = rows[order]
    return (rows[:max_num], scores[:max_num]) if max_num > 0 else (rows, scores)
