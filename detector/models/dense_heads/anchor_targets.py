"""What anchors should predict: shared by every head on anchors.

Shapes: B images, L levels, P anchors of all levels, S_pos and S_neg sampled rows over the batch, G boxes of
one image, K usable anchors of one image.
Boxes: xyxy, pixels of the padded network input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from detector.structures.samples import ImageMeta, Targets
from detector.targets.assigners.assignment import Assigner, Assignment, LevelAssigner
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
        pos_gt_index: (S_pos,) int64 its row in the ground truth of its image.
        num_pos: positives, at least one per image.
        num_neg: negatives, at least one per image.
    """

    pos_rows: Tensor
    neg_rows: Tensor
    pos_anchors: Tensor
    pos_gt_boxes: Tensor
    pos_labels: Tensor
    pos_gt_index: Tensor
    num_pos: int
    num_neg: int

    def labels(self, num_rows: int, background: int) -> Tensor:
        """Label (num_rows,) int64 of every anchor of the batch; ``background`` where it is not positive."""
        labels = self.pos_labels.new_full((num_rows,), background)
        labels[self.pos_rows] = self.pos_labels
        return labels

    def weights(self, num_rows: int, pos_weight: float | Tensor) -> Tensor:
        """Weight (num_rows,) of every anchor: 0 where not sampled.

        ``pos_weight`` is of all positives, not above 0 meaning 1; or (S_pos,) of each.
        """
        weights = self.pos_anchors.new_zeros(num_rows)
        if isinstance(pos_weight, Tensor):
            weights[self.pos_rows] = pos_weight.to(weights)
        else:
            weights[self.pos_rows] = pos_weight if pos_weight > 0 else 1.0
        weights[self.neg_rows] = 1.0
        return weights

    def per_level(self, counts: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Positives of each level of ``counts`` anchors per image.

        Gives for each of the L levels (S_level,) int64 places in ``pos_rows``, and their (S_level,) rows
        among the (B * counts[l]) anchors of that level, image by image.
        """
        image, anchor = self.pos_rows // sum(counts), self.pos_rows % sum(counts)
        found = []
        for low, high in pairwise((0, *accumulate(counts))):
            chosen = torch.nonzero((anchor >= low) & (anchor < high)).flatten()
            found.append((chosen, image[chosen] * (high - low) + anchor[chosen] - low))
        return found


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


AssignImage = Callable[[int, Tensor, Tensor | None], Assignment]


def assign_by_boxes(
    assigner: Assigner | LevelAssigner, targets: Sequence[Targets], counts: Sequence[int]
) -> AssignImage:
    """The usual way to assign the anchors of one image: by its boxes alone.

    Args:
        assigner: pairs anchors with boxes.
        targets: ground truth of B images.
        counts: anchors per image of the L levels.

    Returns:
        a function of the image's number, its usable anchors (K, 4) and their rows among all anchors (K,) or
        None for all.
    """

    def assign(image: int, anchors: Tensor, rows: Tensor | None) -> Assignment:
        target = targets[image]
        if not isinstance(assigner, LevelAssigner):
            return assigner.assign(anchors, target.boxes, target.ignore_boxes)
        return assigner.assign_levels(anchors, usable_counts(rows, counts), target.boxes, target.ignore_boxes)

    return assign


def usable_counts(rows: Tensor | None, counts: Sequence[int]) -> list[int]:
    """How many of the chosen rows lie in each level of ``counts`` anchors; None chooses all."""
    if rows is None:
        return list(counts)
    return [int(((rows >= a) & (rows < b)).sum()) for a, b in pairwise((0, *accumulate(counts)))]


def anchor_targets(
    generator: AnchorGenerator,
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[Targets],
    metas: Sequence[ImageMeta],
    *,
    assigner: Assigner | LevelAssigner,
    sampler: Sampler,
    allowed_border: float,
    with_labels: bool,
    assign: AssignImage | None = None,
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
        assign: takes the place of ``assigner`` where predictions decide too; see ``assign_by_boxes``.

    Source: checked against mmdet 2.28.2 models/dense_heads/anchor_head.py get_targets.
    """
    device = targets[0].boxes.device
    levels = generator.grid_priors(sizes, device)
    anchors = torch.cat(levels)
    return sampled_targets(
        [anchors] * len(metas),
        [torch.cat(generator.valid_flags(sizes, meta.pad_hw, device)) for meta in metas],
        targets,
        metas,
        assign=assign or assign_by_boxes(assigner, targets, [len(level) for level in levels]),
        sampler=sampler,
        allowed_border=allowed_border,
        with_labels=with_labels,
    )


def sampled_targets(
    anchors: Sequence[Tensor],
    valid: Sequence[Tensor],
    targets: Sequence[Targets],
    metas: Sequence[ImageMeta],
    *,
    assign: AssignImage,
    sampler: Sampler,
    allowed_border: float,
    with_labels: bool,
) -> AnchorTargets:
    """Assign and sample anchors that may differ from image to image.

    Args:
        anchors: B tensors (P, 4).
        valid: B tensors (P,) bool, the anchors that may take part.
        targets: ground truth of B images.
        metas: B metas.
        assign: see ``assign_by_boxes``.
        sampler: chooses anchors.
        allowed_border: see ``inside_rows``.
        with_labels: False for class-agnostic heads.
    """
    parts: list[tuple[Sampled, Tensor, Tensor]] = []
    for i, (own, flags, target, meta) in enumerate(zip(anchors, valid, targets, metas, strict=True)):
        rows = inside_rows(own, flags, meta.input_hw, allowed_border)
        usable = own if rows is None else own[rows]
        found = sampler.sample(
            assign(i, usable, rows), usable, target.boxes, target.labels if with_labels else None
        )
        pos, neg = found.pos_index, found.neg_index
        parts.append((found, pos, neg) if rows is None else (found, rows[pos], rows[neg]))
    return joined(parts, len(anchors[0]))


def joined(parts: Sequence[tuple[Sampled, Tensor, Tensor]], num_anchors: int) -> AnchorTargets:
    """One record of the samples of all images with their positive and negative rows over all anchors."""
    labels = [
        s.pos_gt_labels if s.pos_gt_labels is not None else torch.zeros_like(pos) for s, pos, _ in parts
    ]
    return AnchorTargets(
        pos_rows=torch.cat([pos + i * num_anchors for i, (_, pos, _) in enumerate(parts)]),
        neg_rows=torch.cat([neg + i * num_anchors for i, (_, _, neg) in enumerate(parts)]),
        pos_anchors=torch.cat([s.pos_boxes for s, _, _ in parts]),
        pos_gt_boxes=torch.cat([s.pos_gt_boxes for s, _, _ in parts]),
        pos_labels=torch.cat(labels),
        pos_gt_index=torch.cat([s.pos_gt_index for s, _, _ in parts]),
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
