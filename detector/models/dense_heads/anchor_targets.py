"""What anchors should predict: shared by every head on anchors.

Shapes: B images, L levels, P anchors of all levels, S_pos and S_neg sampled rows over the batch, G boxes of
one image.
Boxes: xyxy, pixels of the padded network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.structures.samples import ImageMeta, Targets
from detector.targets.assigners.assignment import Assigner
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.samplers.sampling import Sampled, Sampler


@dataclass(frozen=True)
class AnchorTargets:
    """The sampled anchors of a batch; rows count over (B * P), image by image.

    Attributes:
        pos_rows: (S_pos,) int64.
        neg_rows: (S_neg,) int64.
        pos_anchors: (S_pos, 4).
        pos_gt_boxes: (S_pos, 4) the box each positive anchor stands for.
        pos_labels: (S_pos,) int64 its label; 0 without class labels (RPN).
        num_pos: positives, at least one per image.
        num_neg: negatives, at least one per image.
    """

    pos_rows: Tensor
    neg_rows: Tensor
    pos_anchors: Tensor
    pos_gt_boxes: Tensor
    pos_labels: Tensor
    num_pos: int
    num_neg: int


def inside_rows(
    anchors: Tensor, valid: Tensor, image_hw: tuple[int, int], allowed_border: float
) -> Tensor | None:
    """Rows (K,) of anchors that may take part, or None for all.

    ``allowed_border`` is how many pixels an anchor may leave the (unpadded) image; negative means any number.
    """
    keep = valid
    if allowed_border >= 0:
        height, width = image_hw
        keep = (
            valid
            & (anchors[:, 0] >= -allowed_border)
            & (anchors[:, 1] >= -allowed_border)
            & (anchors[:, 2] < width + allowed_border)
            & (anchors[:, 3] < height + allowed_border)
        )
    return None if bool(keep.all()) else torch.nonzero(keep).flatten()


def _image_sample(
    anchors: Tensor,
    rows: Tensor | None,
    target: Targets,
    assigner: Assigner,
    sampler: Sampler,
    *,
    with_labels: bool,
) -> tuple[Sampled, Tensor, Tensor]:
    """Sample of one image with its positive and negative rows over all anchors."""
    usable = anchors if rows is None else anchors[rows]
    assignment = assigner.assign(usable, target.boxes, target.ignore_boxes)
    sampled = sampler.sample(assignment, usable, target.boxes, target.labels if with_labels else None)
    if rows is None:
        return sampled, sampled.pos_index, sampled.neg_index
    return sampled, rows[sampled.pos_index], rows[sampled.neg_index]


def anchor_targets(
    generator: AnchorGenerator,
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[Targets],
    metas: Sequence[ImageMeta],
    *,
    assigner: Assigner,
    sampler: Sampler,
    allowed_border: float,
    with_labels: bool,
) -> AnchorTargets:
    """Assign and sample the anchors of every image.

    Args:
        generator: gives the anchors.
        sizes: (h, w) of the L feature maps.
        targets: ground truth of B images; empty ones give background only.
        metas: B metas; anchors in padding added by batching are left out.
        assigner: pairs anchors with boxes.
        sampler: chooses anchors.
        allowed_border: see ``inside_rows``.
        with_labels: False for class-agnostic heads.

    Source: checked against mmdet 2.28.2 models/dense_heads/anchor_head.py get_targets.
    """
    device = targets[0].boxes.device
    anchors = torch.cat(generator.grid_priors(sizes, device))
    parts: list[tuple[Sampled, Tensor, Tensor]] = []
    for target, meta in zip(targets, metas, strict=True):
        valid = torch.cat(generator.valid_flags(sizes, meta.pad_hw, device))
        rows = inside_rows(anchors, valid, meta.input_hw, allowed_border)
        parts.append(_image_sample(anchors, rows, target, assigner, sampler, with_labels=with_labels))
    pos_rows = torch.cat([pos + i * len(anchors) for i, (_, pos, _) in enumerate(parts)])
    labels = [
        s.pos_gt_labels if s.pos_gt_labels is not None else torch.zeros_like(pos) for s, pos, _ in parts
    ]
    return AnchorTargets(
        pos_rows=pos_rows,
        neg_rows=torch.cat([neg + i * len(anchors) for i, (_, _, neg) in enumerate(parts)]),
        pos_anchors=torch.cat([s.pos_boxes for s, _, _ in parts]),
        pos_gt_boxes=torch.cat([s.pos_gt_boxes for s, _, _ in parts]),
        pos_labels=torch.cat(labels),
        num_pos=sum(max(len(pos), 1) for _, pos, _ in parts),
        num_neg=sum(max(len(neg), 1) for _, _, neg in parts),
    )


def flatten_levels(maps: Sequence[Tensor], channels: int) -> Tensor:
    """L maps (B, A * channels, h, w) give (B, P, channels) in the order of the anchors."""
    # (B, A*c, h, w) -> (B, h, w, A*c) -> (B, h*w*A, c)
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps], dim=1)


def map_sizes(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    """(h, w) of every map."""
    return [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]
