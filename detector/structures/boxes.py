"""Box conventions, in words.

The house default: ``boxes`` are (n, 4) float32 tensors of x1, y1, x2, y2 in absolute pixels of the network
input, x to the right, y down, (x2 - x1) is the width (no +1). Any other format or frame carries a suffix:
``boxes_cxcywh``, ``boxes_xywh``, ``boxes_norm`` (divided by width and height), ``boxes_orig`` (pixels of the
original image). Sizes are always (height, width). Labels are 0..C-1, background is C, ignore is -1;
``num_classes`` never counts background.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rescale_to_original(boxes: Tensor, scale_factor: Sequence[float]) -> Tensor:
    """Divide (n, 4) xyxy input-pixel boxes by the (x, y, x, y) scale factors: original pixels."""
    return boxes / boxes.new_tensor(tuple(scale_factor))


def clip(boxes: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Clip (..., 4) xyxy boxes to [0, width] x [0, height]; returns a new tensor."""
    height, width = image_hw
    limit = boxes.new_tensor((width, height, width, height))
    return torch.minimum(boxes.clamp(min=0), limit)


def area(boxes: Tensor) -> Tensor:
    """Areas (n,) of (n, 4) xyxy boxes in squared pixels; negative sides count as they are (not clamped)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
