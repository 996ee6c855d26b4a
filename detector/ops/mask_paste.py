"""From a small mask per box to run-length encodings at image size.

Shapes: N masks of h x w, image of H x W.
Boxes: xyxy, pixels of the image, no +1.
"""

from __future__ import annotations

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.functional import grid_sample

from detector.structures.samples import Rle


def paste_region(mask: Tensor, box: Tensor, image_hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Resample one mask onto the pixels its box covers.

    Args:
        mask: (h, w) probabilities in [0, 1].
        box: (4,) xyxy in pixels of the image.
        image_hw: size of the image.

    Returns:
        values (rows, columns), empty when the box lies outside, and the (y, x) of their first pixel.

    Source: checked against mmdet 2.28.2 models/roi_heads/mask_heads/fcn_mask_head.py _do_paste_mask.
    """
    height, width = image_hw
    x0, y0, x1, y1 = box.tolist()
    left, top = max(int(np.floor(x0)) - 1, 0), max(int(np.floor(y0)) - 1, 0)
    right, bottom = min(int(np.ceil(x1)) + 1, width), min(int(np.ceil(y1)) + 1, height)
    if right <= left or bottom <= top or x1 <= x0 or y1 <= y0:
        return mask.new_zeros(0, 0), (top, left)
    xs = (torch.arange(left, right, device=mask.device, dtype=torch.float32) + 0.5 - box[0]) / (
        box[2] - box[0]
    ) * 2 - 1
    ys = (torch.arange(top, bottom, device=mask.device, dtype=torch.float32) + 0.5 - box[1]) / (
        box[3] - box[1]
    ) * 2 - 1
    grid = torch.stack((xs[None].expand(len(ys), -1), ys[:, None].expand(-1, len(xs))), dim=-1)
    return grid_sample(mask[None, None].float(), grid[None], align_corners=False)[0, 0], (top, left)


def paste_masks(masks: Tensor, boxes: Tensor, image_hw: tuple[int, int], *, threshold: float) -> list[Rle]:
    """Encode N masks at image size, one at a time, so that memory holds a single image.

    Args:
        masks: (N, h, w) probabilities in [0, 1].
        boxes: (N, 4) xyxy in pixels of the image.
        image_hw: size of the encoded masks.
        threshold: a pixel belongs to the mask when its value is at least this.

    Returns:
        N encodings in the order of ``masks``; a box outside the image gives an empty mask.
    """
    canvas = np.zeros(image_hw, dtype=np.uint8, order="F")
    boxes = boxes.float()
    encoded: list[Rle] = []
    for mask, box in zip(masks.cpu(), boxes.cpu(), strict=True):
        values, (top, left) = paste_region(mask, box, image_hw)
        region = canvas[top : top + values.shape[0], left : left + values.shape[1]]
        region[:] = (values >= threshold).numpy()
        encoded.append(coco_mask.encode(canvas))
        region[:] = 0
    return encoded
