"""Between an original image and a view of it: resized, then perhaps mirrored, then padded right and below.

Shapes: n boxes, K regions, M mask pixels per side.
Boxes: xyxy, absolute pixels, no +1; of the original image, or of the view (the network input).
Source: the rules of mmdet 2.28.2 core/bbox/transforms.py, of which no numbers are recorded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.structures.boxes import rescale_to_original
from detector.structures.samples import ImageMeta

# (mirrored left to right, mirrored top to bottom) of every direction
_MIRRORED = {
    None: (False, False),
    "horizontal": (True, False),
    "vertical": (False, True),
    "diagonal": (True, True),
}


def _mirrored(direction: str | None) -> tuple[bool, bool]:
    """Whether x and whether y runs backwards.

    Raises:
        ConfigError: another direction.
    """
    if direction not in _MIRRORED:
        raise ConfigError(
            f"flip_direction of a view: found {direction!r}; expected 'horizontal', 'vertical', 'diagonal' "
            "or None. Correct it in MultiScaleFlipAug."
        )
    return _MIRRORED[direction]


def flip_boxes(boxes: Tensor, image_hw: tuple[int, int], direction: str | None) -> Tensor:
    """Mirror (n, 4) boxes in an image of ``image_hw``; done twice, it changes nothing.

    Raises:
        ConfigError: an unknown direction.
    """
    (x_backwards, y_backwards), (height, width) = _mirrored(direction), image_hw
    x0, y0, x1, y1 = boxes.unbind(dim=-1)
    if x_backwards:
        x0, x1 = width - x1, width - x0
    if y_backwards:
        y0, y1 = height - y1, height - y0
    return torch.stack((x0, y0, x1, y1), dim=-1)


def boxes_to_view(boxes: Tensor, meta: ImageMeta) -> Tensor:
    """Boxes (n, 4) of the original image in pixels of a view."""
    return flip_boxes(boxes * boxes.new_tensor(meta.scale_factor), meta.input_hw, meta.flip_direction)


def boxes_from_view(boxes: Tensor, meta: ImageMeta) -> Tensor:
    """Boxes (n, 4), or (n, 4 * C) of C classes, of a view in pixels of the original image."""
    upright = flip_boxes(boxes.reshape(-1, 4), meta.input_hw, meta.flip_direction)
    return rescale_to_original(upright, meta.scale_factor).reshape(boxes.shape)


def masks_from_view(masks: Tensor, meta: ImageMeta) -> Tensor:
    """Masks (K, M, M) inside boxes of a view, as they lie inside the boxes of the original image."""
    x_backwards, y_backwards = _mirrored(meta.flip_direction)
    return masks.flip([axis for axis, flipped in ((-1, x_backwards), (-2, y_backwards)) if flipped])
