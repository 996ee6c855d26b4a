"""Assignment of points by how far they are from the sides of each box, one range of distances per level.

Shapes: P points of all levels, L levels, G ground-truth boxes of one image.
Boxes: xyxy, pixels of the network input. Distances: left, top, right, bottom.
Paper: Tian et al., ICCV 2019, arXiv:1904.01355.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.structures.boxes import area
from detector.targets.assigners.assignment import BACKGROUND

INF = 1e8


def level_values(counts: Sequence[int], values: Sequence[float], like: Tensor) -> Tensor:
    """One value per level repeated for its points, (P,), with the device and dtype of ``like``."""
    repeats = torch.tensor(tuple(counts), device=like.device)
    return like.new_tensor(tuple(values)).repeat_interleave(repeats)


def labels_of(gt_index: Tensor, gt_labels: Tensor, background: int) -> Tensor:
    """Labels (P,) of rows (P,) of the ground truth; ``background`` where a row is negative."""
    if len(gt_labels) == 0:
        return torch.full_like(gt_index, background)
    return torch.where(gt_index >= 0, gt_labels[gt_index.clamp(min=0)], background)


def near_centre(points: Tensor, boxes: Tensor, reach: Tensor) -> Tensor:
    """(P, G) whether (P, 2) points lie inside (G, 4) boxes and within (P,) ``reach`` of their centres."""
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2)[None]
    low = torch.maximum(centre - reach[:, None, None], boxes[None, :, :2])
    high = torch.minimum(centre + reach[:, None, None], boxes[None, :, 2:])
    return torch.cat((points[:, None] - low, high - points[:, None]), dim=2).amin(dim=2) > 0


def assign_by_range(
    points: Tensor,
    counts: Sequence[int],
    gt_boxes: Tensor,
    *,
    strides: Sequence[float],
    ranges: Sequence[Sequence[float]],
    radius: float | None,
) -> tuple[Tensor, Tensor]:
    """Give every point the smallest box it lies in and whose largest distance is in its level's range.

    Args:
        points: (P, 2).
        counts: points of each level.
        gt_boxes: (G, 4).
        strides: pixels between points of each level.
        ranges: (low, high) of each level in pixels, both included.
        radius: only points within so many strides of the centre count; None allows the whole box.

    Returns:
        (P,) int64 rows of the ground truth or ``BACKGROUND``, and (P, 4) distances in pixels (meaningless
        for background, zero without boxes).

    Source: checked against mmdet 2.28.2 models/dense_heads/fcos_head.py _get_target_single.
    """
    index = points.new_full((len(points),), BACKGROUND, dtype=torch.long)
    if len(gt_boxes) == 0:
        return index, points.new_zeros(len(points), 4)
    # (P, G, 4)
    distances = torch.cat(
        (points[:, None] - gt_boxes[None, :, :2], gt_boxes[None, :, 2:] - points[:, None]), dim=2
    )
    if radius is None:
        inside = distances.amin(dim=2) > 0
    else:
        inside = near_centre(points, gt_boxes, level_values(counts, strides, points) * radius)
    low, high = (level_values(counts, [r[side] for r in ranges], points)[:, None] for side in (0, 1))
    reach = distances.amax(dim=2)
    sizes = torch.where(inside & (reach >= low) & (reach <= high), area(gt_boxes)[None], INF)
    smallest, chosen = sizes.min(dim=1)
    picked = distances[torch.arange(len(points), device=points.device), chosen]
    return torch.where(smallest == INF, index, chosen), picked
