"""What square cells should predict when boxes around each decide: shared by SABL and guided anchoring.

Shapes: B images, L levels, P cells of all levels, A boxes of a cell.
Boxes: xyxy, pixels of the padded network input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.models.dense_heads.anchor_targets import AnchorTargets, joined
from detector.structures.samples import ImageMeta, Targets
from detector.targets.assigners.approx_max_iou import ApproxMaxIoUAssigner
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.samplers.sampling import Sampled, Sampler


def usable_cells(
    generator: AnchorGenerator,
    sizes: Sequence[tuple[int, int]],
    meta: ImageMeta,
    allowed_border: float,
    device: torch.device,
) -> Tensor:
    """Which cells (P,) have any box that may take part.

    Args:
        generator: of the boxes.
        sizes: (h, w) of the L feature maps.
        meta: of the image.
        allowed_border: pixels a box may leave the (unpadded) image; negative means any number.
        device: where the result lies.
    """
    flags = []
    levels = zip(
        generator.grid_priors(sizes, device),
        generator.valid_flags(sizes, meta.pad_hw, device),
        generator.num_base_priors,
        strict=True,
    )
    for boxes, valid, count in levels:
        keep = valid
        if allowed_border >= 0:
            limit = boxes.new_tensor((meta.input_hw[1], meta.input_hw[0])) + allowed_border
            keep = valid & (boxes[:, :2] >= -allowed_border).all(dim=1) & (boxes[:, 2:] < limit).all(dim=1)
        flags.append(keep.reshape(-1, count).any(dim=1))
    return torch.cat(flags)


def approx_targets(
    approxs: AnchorGenerator,
    squares: AnchorGenerator,
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[Targets],
    metas: Sequence[ImageMeta],
    *,
    assigner: ApproxMaxIoUAssigner,
    sampler: Sampler,
    allowed_border: float,
    with_labels: bool,
) -> AnchorTargets:
    """Assign and sample the cells of every image.

    Args:
        approxs: gives A boxes per cell.
        squares: gives one box per cell.
        sizes: (h, w) of the L feature maps.
        targets: ground truth of B images.
        metas: B metas.
        assigner: pairs cells with ground truth.
        sampler: chooses cells.
        allowed_border: see ``usable_cells``.
        with_labels: False for class-agnostic heads.

    Source: checked against mmdet 2.28.2 models/dense_heads/guided_anchor_head.py ga_shape_targets.
    """
    device = targets[0].boxes.device
    cells = torch.cat(squares.grid_priors(sizes, device))
    groups = torch.cat(approxs.grid_priors(sizes, device)).reshape(len(cells), -1, 4)
    parts: list[tuple[Sampled, Tensor, Tensor]] = []
    for target, meta in zip(targets, metas, strict=True):
        rows = torch.nonzero(usable_cells(approxs, sizes, meta, allowed_border, device)).flatten()
        assignment = assigner.assign_cells(groups[rows], cells[rows], target.boxes, target.ignore_boxes)
        found = sampler.sample(assignment, cells[rows], target.boxes, target.labels if with_labels else None)
        parts.append((found, rows[found.pos_index], rows[found.neg_index]))
    return joined(parts, len(cells))
