"""Suppression of overlapping boxes, in the order and with the tie rules of the reference.

Shapes: N boxes, C classes.
Boxes: xyxy, any one frame, no +1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from detector.ops.iou import pairwise_iou
from detector.ops.recording import is_recorded
from detector.structures.specs import NmsSpec

# Below this many boxes one call is cheaper than one call per group (two CPU cores, torchvision 0.25).
_SINGLE_CALL = 512


def soft_nms(boxes: Tensor, scores: Tensor, spec: NmsSpec) -> tuple[Tensor, Tensor]:
    """Decay the scores of overlapping boxes instead of dropping them.

    Args:
        boxes: (N, 4).
        scores: (N,) in [0, 1].
        spec: ``iou_threshold``, ``sigma``, ``min_score`` and ``method`` (linear, gaussian or naive).

    Returns:
        rows kept (K,) in order of their decayed score, and those scores (K,).

    Source: Bodla et al., ICCV 2017, arXiv:1704.04503; mmcv ops/nms.py soft_nms.
    """
    left, decayed = torch.arange(len(boxes), device=boxes.device), scores.clone()
    kept, kept_scores = [], []
    while left.numel():
        best = int(decayed.argmax())
        kept.append(left[best])
        kept_scores.append(decayed[best])
        iou = pairwise_iou(boxes[left[best]][None], boxes[left])[0]
        if spec.method == "gaussian":
            factor = torch.exp(-(iou**2) / spec.sigma)
        elif spec.method == "linear":
            factor = torch.where(iou >= spec.iou_threshold, 1 - iou, torch.ones_like(iou))
        else:
            factor = (iou < spec.iou_threshold).to(iou)
        decayed = decayed * factor
        stay = decayed >= spec.min_score
        stay[best] = False
        left, decayed = left[stay], decayed[stay]
    if not kept:
        return torch.zeros(0, dtype=torch.long, device=boxes.device), scores[:0]
    return torch.stack(kept), torch.stack(kept_scores)


def _hard_nms(shifted: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Rows kept, by descending score.

    Groups do not overlap once shifted, so they may be treated one by one.
    """
    if shifted.is_cuda or is_recorded() or len(shifted) <= _SINGLE_CALL:
        return nms(shifted, scores, threshold)
    order = groups.argsort(stable=True)
    counts = torch.unique_consecutive(groups[order], return_counts=True)[1]
    rows = torch.cat(
        [part[nms(shifted[part], scores[part], threshold)] for part in order.split(counts.tolist())]
    )
    rows = rows.sort().values  # ties keep the order of the input, as one call would
    return rows[scores[rows].argsort(descending=True, stable=True)]


def _largest(boxes: Tensor) -> Tensor:
    """Largest coordinate of (N, 4) boxes; in a recording, where N may turn out to be 0, at least 0."""
    return torch.cat((boxes.flatten(), boxes.new_zeros(1))).max() if is_recorded() else boxes.max()


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, spec: NmsSpec | None) -> tuple[Tensor, Tensor]:
    """Suppress within each group; the box coordinates are shifted apart by group as the reference does.

    Args:
        boxes: (N, 4).
        scores: (N,).
        groups: (N,) int64, boxes of different groups never suppress each other.
        spec: settings; None only sorts.

    Returns:
        rows kept (K,) by descending score, and their scores (K,) (changed by soft_nms only).

    Source: checked against mmcv 1.7 ops/nms.py batched_nms.
    """
    if spec is None:
        order = scores.argsort(descending=True, stable=True)
        return order, scores[order]
    if not is_recorded() and boxes.numel() == 0:
        return torch.zeros(0, dtype=torch.long, device=boxes.device), scores
    shifted = boxes
    if not spec.class_agnostic:
        shifted = boxes + (groups.to(boxes) * (_largest(boxes) + 1))[:, None]
    if spec.type == "soft_nms":
        kept, kept_scores = soft_nms(shifted, scores, spec)
    else:
        kept = _hard_nms(
            shifted, scores, torch.zeros_like(groups) if spec.class_agnostic else groups, spec.iou_threshold
        )
        kept_scores = scores[kept]
    if spec.max_num > 0:
        kept, kept_scores = kept[: spec.max_num], kept_scores[: spec.max_num]
    return kept, kept_scores


def multiclass_nms(
    boxes: Tensor, scores: Tensor, *, score_thr: float, spec: NmsSpec | None, max_num: int = -1
) -> tuple[Tensor, Tensor, Tensor]:
    """Filter by score, suppress per class and keep the best.

    Args:
        boxes: (N, 4) shared by all classes, or (N, C * 4).
        scores: (N, C + 1) probabilities, the last column being background.
        score_thr: scores must exceed it.
        spec: suppression within a class.
        max_num: most detections to keep; -1 keeps all.

    Returns:
        boxes (K, 4), scores (K,) descending and labels (K,) int64 in [0, C).

    Source: checked against mmdet 2.28.2 core/post_processing/bbox_nms.py.
    """
    num_classes = scores.shape[1] - 1
    rows, labels = torch.nonzero(scores[:, :num_classes] > score_thr, as_tuple=True)
    picked = scores[rows, labels]
    candidates = boxes[rows] if boxes.shape[1] == 4 else boxes.reshape(-1, num_classes, 4)[rows, labels]
    kept, kept_scores = batched_nms(candidates, picked, labels, spec)
    if max_num > 0:
        kept, kept_scores = kept[:max_num], kept_scores[:max_num]
    return candidates[kept], kept_scores, labels[kept]
