"""Where anchors should be: the centres of objects on the level of their size.

Shapes: B images, L levels of h_l x w_l cells, G boxes of one image.
Boxes: xyxy, pixels of the padded network input.
Paper: Wang et al., CVPR 2019, arXiv:1901.03278; checked against mmdet 2.28.2
models/dense_heads/guided_anchor_head.py ga_loc_targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BACKGROUND_WEIGHT = 0.1


def _regions(boxes: Tensor, share: float, size: tuple[int, int]) -> list[list[int]]:
    """Cells x1, y1, x2, y2 (last ones included) of the central ``share`` of G boxes in cells."""
    margin = (1 - share) / 2
    low = (1 - margin) * boxes[:, :2] + margin * boxes[:, 2:]
    high = margin * boxes[:, :2] + (1 - margin) * boxes[:, 2:]
    limit = torch.tensor((size[1], size[0], size[1], size[0]), device=boxes.device)
    cells = torch.cat((low, high), dim=1).round().long()
    return torch.minimum(cells.clamp(min=0), limit).tolist()


def box_levels(boxes: Tensor, smallest: float, num_levels: int) -> list[int]:
    """Level of each box (G, 4) by its size; ``smallest`` is the anchor side of level 0 in pixels."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    levels = (side.log2() - torch.log2(side.new_tensor(smallest)) + 0.5).floor()
    return levels.clamp(min=0, max=num_levels - 1).long().tolist()


def centre_targets(
    gt_boxes: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    *,
    anchor_scale: float,
    center_ratio: float,
    ignore_ratio: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Location targets of a batch.

    Args:
        gt_boxes: B tensors (G, 4); G may be 0.
        sizes: (h, w) of the L feature maps.
        strides: pixels between cells of each level.
        anchor_scale: anchor side in strides, which decides the level of a box.
        center_ratio: share of a box whose cells are its centre.
        ignore_ratio: share of a box around the centre, and on both neighbour levels, that does not count.

    Returns:
        L centre maps (B, h, w) of 0 and 1, and L weights (B, h, w): 1 in centres, 0 where ignored, else 0.1.
        Where boxes compete the later one wins.
    """
    device, batch = gt_boxes[0].device, len(gt_boxes)
    centres = [torch.zeros(batch, *size, device=device) for size in sizes]
    weights = [torch.full((batch, *size), -1.0, device=device) for size in sizes]
    ignored = [torch.zeros(batch, *size, dtype=torch.bool, device=device) for size in sizes]
    for b, boxes in enumerate(gt_boxes):
        wide = [_regions(boxes / s, ignore_ratio, size) for s, size in zip(strides, sizes, strict=True)]
        core = [_regions(boxes / s, center_ratio, size) for s, size in zip(strides, sizes, strict=True)]
        for g, level in enumerate(box_levels(boxes, anchor_scale * strides[0], len(sizes))):
            x1, y1, x2, y2 = core[level][g]
            left, top, right, bottom = wide[level][g]
            centres[level][b, y1 : y2 + 1, x1 : x2 + 1] = 1
            weights[level][b, top : bottom + 1, left : right + 1] = 0
            weights[level][b, y1 : y2 + 1, x1 : x2 + 1] = 1
            for near in {level - 1, level + 1} & set(range(len(sizes))):
                left, top, right, bottom = wide[near][g]
                ignored[near][b, top : bottom + 1, left : right + 1] = True
    for weight, skip in zip(weights, ignored, strict=True):
        weight[(weight < 0) & skip] = 0
        weight[weight < 0] = _BACKGROUND_WEIGHT
    return centres, weights
