"""From raw maps to detections: what every dense head that scores classes per prior shares.

Per level: scores above a threshold, the best of them, their boxes. Then all levels together: back to original
pixels, scores times their quality, suppression within classes, the best of the image.

Shapes: B images, L levels, A priors per cell, P priors of one level (h * w * A), C classes, K chosen pairs
of prior and class.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Checked against mmdet 2.28.2 models/dense_heads/base_dense_head.py and core/utils/misc.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from detector.ops.nms import batched_nms
from detector.structures.boxes import rescale_to_original
from detector.structures.samples import Detections, ImageMeta
from detector.structures.specs import NmsSpec, Spec
from detector.structures.views import boxes_from_view

NMS_05 = NmsSpec(iou_threshold=0.5)

# level, priors (K, ...), their columns of the box map (K, D), (height, width) to clip to: boxes (K, 4)
Decode = Callable[[int, Tensor, Tensor, tuple[int, int]], Tensor]
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DenseTestSpec(Spec):
    """How raw maps become detections.

    Attributes:
        nms_pre: most pairs of prior and class per level; not above 0 keeps all.
        score_thr: scores must exceed it, before any quality factor.
        nms: suppression within a class; None only sorts.
        max_per_img: most detections of an image; not above 0 keeps all.
        min_bbox_size: accepted for the dialect; only proposals are filtered by size.
    """

    nms_pre: int = -1
    score_thr: float = 0.05
    nms: NmsSpec | None = NMS_05
    max_per_img: int = 100
    min_bbox_size: float = 0


class Suppression(Protocol):
    """What ``suppress`` needs of test settings, as in ``DenseTestSpec``."""

    @property
    def nms(self) -> NmsSpec | None:
        """Suppression within a class."""

    @property
    def max_per_img(self) -> int:
        """Most detections of an image."""


@dataclass(frozen=True)
class Candidates:
    """Boxes of one image before suppression, level by level, each level best first.

    Attributes:
        boxes: (K, 4).
        scores: (K,) class score times quality.
        labels: (K,) int64 in [0, C).
        class_scores: (K,) class score alone.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_scores: Tensor


def sigmoid_scores(logits: Tensor) -> Tensor:
    """(P, C) logits give (P, C) probabilities."""
    return logits.sigmoid()


def softmax_scores(logits: Tensor) -> Tensor:
    """(P, C + 1) logits, background last, give (P, C) probabilities."""
    return logits.softmax(dim=-1)[..., :-1]


def best_rows(scores: Tensor, limit: int) -> Tensor:
    """The best of every image, best first; equal scores keep their order.

    Saturated scores are often equal in float32, and which of them come first decides whom they suppress.

    Args:
        scores: (B, P).
        limit: K, below P.

    Returns:
        (B, K) int64.
    """
    if scores.is_cuda:
        return scores.argsort(dim=1, descending=True, stable=True)[:, :limit]
    best = []
    for own in scores:  # sorting all of them takes several times as long on a CPU
        rows = torch.nonzero(~(own < own.topk(limit).values[-1])).flatten()  # not >=: a NaN stays, as in topk
        best.append(rows[own[rows].argsort(descending=True, stable=True)][:limit])
    return torch.stack(best)


def pick(scores: Tensor, score_thr: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of prior and class of one level.

    Args:
        scores: (P, C).
        score_thr: scores must exceed it.
        limit: most pairs to keep; not above 0 keeps all.

    Returns:
        scores (K,) descending, labels (K,) and prior rows (K,) int64; equal scores keep their order.
    """
    keep = scores > score_thr
    if 0 < limit < scores.numel():
        best = scores.flatten().topk(limit).values[-1]  # one pass instead of sorting every pair
        keep = keep & (scores >= best)
    rows, labels = torch.nonzero(keep, as_tuple=True)
    values, order = scores[rows, labels].sort(descending=True, stable=True)
    if limit > 0:
        values, order = values[:limit], order[:limit]
    return values, labels[order], rows[order]


def cell_rows(level_map: Tensor, channels: int) -> Tensor:
    """One image's map (A * channels, h, w) as rows (P, channels) in the order of the priors, float32."""
    return level_map.detach().permute(1, 2, 0).reshape(-1, channels).float()


def candidates(
    logits: Sequence[Tensor],
    box_maps: Sequence[Tensor],
    priors: Sequence[Tensor],
    meta: ImageMeta,
    decode: Decode,
    *,
    spec: DenseTestSpec,
    channels: int,
    activation: Activation = sigmoid_scores,
    factors: Sequence[Tensor] | None = None,
    box_columns: int = 4,
) -> Candidates:
    """Choose and decode the priors of one image.

    Args:
        logits: L maps (A * channels, h, w).
        box_maps: L maps (A * box_columns, h, w).
        priors: L tensors of P rows.
        meta: of the image.
        decode: boxes of chosen priors.
        spec: how many to keep.
        channels: class channels per prior.
        activation: probabilities of logits.
        factors: L maps (A, h, w) of quality logits whose sigmoid multiplies the score of chosen priors.
        box_columns: box channels per prior.

    Returns:
        candidates in pixels of the input.
    """
    boxes, scores, labels, quality = [], [], [], []
    for i, (level_logits, level_boxes) in enumerate(zip(logits, box_maps, strict=True)):
        values, classes, rows = pick(
            activation(cell_rows(level_logits, channels)), spec.score_thr, spec.nms_pre
        )
        chosen = cell_rows(level_boxes, box_columns)[rows]
        boxes.append(decode(i, priors[i][rows], chosen, meta.input_hw))
        scores.append(values)
        labels.append(classes)
        if factors is not None:
            quality.append(cell_rows(factors[i], 1)[:, 0][rows].sigmoid())
    class_scores = torch.cat(scores)
    return Candidates(
        boxes=torch.cat(boxes),
        scores=class_scores if factors is None else class_scores * torch.cat(quality),
        labels=torch.cat(labels),
        class_scores=class_scores,
    )


def to_original(found: Candidates, meta: ImageMeta, *, rescale: bool) -> Candidates:
    """The same candidates in original pixels with ``rescale``, else as they are."""
    return replace(found, boxes=rescale_to_original(found.boxes, meta.scale_factor)) if rescale else found


def joined(found: Sequence[Candidates], metas: Sequence[ImageMeta]) -> Candidates:
    """Candidates of several views of one image, each in pixels of its view, as one set in original pixels."""
    return Candidates(
        boxes=torch.cat([boxes_from_view(f.boxes, meta) for f, meta in zip(found, metas, strict=True)]),
        scores=torch.cat([f.scores for f in found]),
        labels=torch.cat([f.labels for f in found]),
        class_scores=torch.cat([f.class_scores for f in found]),
    )


def suppress(found: Candidates, spec: Suppression) -> Detections:
    """The best of one image after suppression within classes, best first.

    Detections are in the pixels of the candidates; none give empty tensors.
    """
    kept, scores = batched_nms(found.boxes, found.scores, found.labels, spec.nms)
    if spec.max_per_img > 0:
        kept, scores = kept[: spec.max_per_img], scores[: spec.max_per_img]
    return Detections(boxes=found.boxes[kept], scores=scores, labels=found.labels[kept])
