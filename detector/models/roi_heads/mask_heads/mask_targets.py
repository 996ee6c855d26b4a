"""Ground-truth masks cut to the regions that should predict them.

Shapes: G ground-truth masks of one image, S_pos positive regions of one image, M mask pixels per side, H x
W padded input.
Boxes: xyxy, pixels of the padded network input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.ops.roi_align import roi_align
from detector.structures.specs import RoILayerSpec
from detector.targets.samplers.sampling import Sampled


def crop_masks(masks: Tensor, boxes: Tensor, rows: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resample masks inside boxes.

    Args:
        masks: (G, H, W) 0/1 of any dtype.
        boxes: (S_pos, 4); parts outside the image are cut off first.
        rows: (S_pos,) int64 the mask of each box.
        size: M, or (height, width).

    Returns:
        (S_pos, M, M) float 0/1: bilinear average at least 0.5.

    Source: checked against mmdet 2.28.2 core/mask/structures.py BitmapMasks.crop_and_resize.
    """
    hw = (size, size) if isinstance(size, int) else size
    if len(boxes) == 0:
        return boxes.new_zeros((0, *hw))
    height, width = masks.shape[-2:]
    boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor((width, height, width, height)))
    needed, index = rows.unique(return_inverse=True)
    rois = torch.cat((index[:, None].to(boxes), boxes), dim=1)
    spec = RoILayerSpec(output_size=hw, sampling_ratio=0, aligned=True)
    return (
        roi_align(masks[needed][:, None].float(), rois.float(), spec, spatial_scale=1.0)[:, 0] >= 0.5
    ).float()


def mask_targets(samples: Sequence[Sampled], masks: Sequence[Tensor], size: int | tuple[int, int]) -> Tensor:
    """Targets (S_pos of the batch, M, M) of all images; ``masks`` are (G, H, W) per image."""
    return torch.cat(
        [crop_masks(m, s.pos_boxes, s.pos_gt_index, size) for s, m in zip(samples, masks, strict=True)]
    )
