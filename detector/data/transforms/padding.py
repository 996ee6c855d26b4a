"""Growing the image, its masks and its class map.

Shapes: H x W the current image, G boxes.
Source: behaviour checked against MMDetection 2.28.2 Pad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detector.data.transforms.sample import Array, Sample
from detector.errors import ConfigError


def padded(array: Array, shape_hw: tuple[int, int], value: float | Sequence[float]) -> Array:
    """(H, W, C) grown right and below to at least ``shape_hw``, laid out as planes like Normalize's.

    Args:
        array: the image or map.
        shape_hw: wanted (height, width).
        value: fills what is new; one number or one per channel.
    """
    height, width, channels = array.shape
    new_h, new_w = max(height, shape_hw[0]), max(width, shape_hw[1])
    if (new_h, new_w) == (height, width):
        return array
    planes = np.empty((channels, new_h, new_w), array.dtype)
    planes[:, :height, :width] = array.transpose(2, 0, 1)
    fill = np.reshape(value, (-1, 1, 1))  # (1 or C, 1, 1)
    planes[:, height:] = fill
    planes[:, :height, width:] = fill
    return planes.transpose(1, 2, 0)


class Pad:
    """Grows the sample right and below.

    Args:
        size: fixed (height, width); or
        size_divisor: both sides become multiples of it; or
        pad_to_square: both sides become the longer one, then size_divisor applies if given.
        pad_val: one number for the image, or {'img', 'masks', 'seg'} (default 0, 0, 255); 'img' may be a
            number per channel.
    """

    def __init__(
        self,
        *,
        size: Sequence[int] | None = None,
        size_divisor: int | None = None,
        pad_to_square: bool = False,
        pad_val: float | Sequence[float] | Mapping[str, Any] | None = None,
    ) -> None:
        ways = (size is not None) + (size_divisor is not None)
        if (pad_to_square and size is not None) or (not pad_to_square and ways != 1):
            raise ConfigError(
                f"Pad has size={size}, size_divisor={size_divisor}, pad_to_square={pad_to_square}; "
                "expected exactly "
                "one of size and size_divisor, or pad_to_square with or without size_divisor."
            )
        values: dict[str, Any] = (
            dict(pad_val) if isinstance(pad_val, Mapping) else {} if pad_val is None else {"img": pad_val}
        )
        unknown = sorted(set(values) - {"img", "masks", "seg"})
        if unknown:
            raise ConfigError(f"Pad.pad_val has the key {unknown[0]!r}; accepted: img, masks, seg.")
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.size_divisor = size_divisor
        self.pad_to_square = pad_to_square
        self.image_value = values.get("img", 0)
        self.mask_value = int(values.get("masks", 0))
        self.semantic_value = int(values.get("seg", 255))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Pad image, masks and class map."""
        image = sample.pixels()
        target = self._target(image.shape[0], image.shape[1])
        sample.image = padded(image, target, self.image_value)
        sample.pad_hw = (int(sample.image.shape[0]), int(sample.image.shape[1]))
        if sample.masks is not None and sample.masks.shape[1:] != sample.pad_hw:
            height, width = sample.masks.shape[1:]
            masks = np.full((len(sample.masks), *sample.pad_hw), self.mask_value, np.uint8)
            masks[:, :height, :width] = sample.masks
            sample.masks = masks
        if sample.semantic is not None:
            sample.semantic = padded(sample.semantic[..., None], sample.pad_hw, self.semantic_value)[..., 0]
        return sample

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        if self.pad_to_square:
            height = width = max(height, width)
        if self.size_divisor is None:
            return height, width
        divisor = self.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor
