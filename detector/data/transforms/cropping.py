"""Random crops.

Shapes: H x W the current image, G boxes.
Boxes: xyxy float32 pixels of the current image.
Source: behaviour checked against MMDetection 2.28.2 RandomCrop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detector.data.transforms.geometric import clip_boxes
from detector.data.transforms.sample import Sample
from detector.errors import ConfigError

CROP_TYPES = ("absolute", "absolute_range", "relative", "relative_range")


class RandomCrop:
    """Cuts a window out of the image; boxes are shifted, and those left empty are dropped.

    Args:
        crop_size: (height, width) in pixels, or in fractions of the image for the relative types.
        crop_type: 'absolute' that size, 'absolute_range' sides drawn between the two numbers, 'relative'
        fractions,
            'relative_range' fractions drawn between the given ones and 1.
        allow_negative_crop: whether a crop without boxes is kept instead of dropping the sample.
        recompute_bbox: whether boxes are recomputed from the cropped masks.
        bbox_clip_border: whether boxes are clipped to the window.
    """

    def __init__(
        self,
        *,
        crop_size: Sequence[float],
        crop_type: str = "absolute",
        allow_negative_crop: bool = False,
        recompute_bbox: bool = False,
        bbox_clip_border: bool = True,
    ) -> None:
        if crop_type not in CROP_TYPES:
            raise ConfigError(f"RandomCrop.crop_type is {crop_type!r}; accepted: {', '.join(CROP_TYPES)}.")
        if len(crop_size) != 2 or any(not n > 0 for n in crop_size):
            raise ConfigError(
                f"RandomCrop.crop_size is {crop_size!r}; expected two positive numbers (height, width)."
            )
        if crop_type.startswith("relative") and any(n > 1 for n in crop_size):
            raise ConfigError(
                f"RandomCrop.crop_size is {crop_size!r}; {crop_type!r} expects fractions up to 1."
            )
        self.crop_size = (crop_size[0], crop_size[1])
        self.crop_type = crop_type
        self.allow_negative_crop = allow_negative_crop
        self.recompute_bbox = recompute_bbox
        self.bbox_clip_border = bbox_clip_border

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        """Crop; None when no box is left and that is not allowed."""
        image = sample.pixels()
        height, width = image.shape[:2]
        crop_h, crop_w = self._window(height, width, rng)
        top = int(rng.integers(max(height - crop_h, 0) + 1))
        left = int(rng.integers(max(width - crop_w, 0) + 1))
        rows, columns = slice(top, top + crop_h), slice(left, left + crop_w)
        sample.image = image[rows, columns]
        sample.input_hw = sample.pad_hw = (int(sample.image.shape[0]), int(sample.image.shape[1]))
        if sample.semantic is not None:
            sample.semantic = sample.semantic[rows, columns]
        if sample.ignore_boxes is not None:
            sample.ignore_boxes, _ = self._shift(sample.ignore_boxes, left, top, sample.input_hw)
        if sample.proposals is not None:
            sample.proposals, _ = self._shift(sample.proposals, left, top, sample.input_hw)
        if sample.boxes is None:
            return sample
        sample.boxes, kept = self._shift(sample.boxes, left, top, sample.input_hw)
        if not len(sample.boxes) and not self.allow_negative_crop:
            return None
        if sample.labels is not None:
            sample.labels = sample.labels[kept]
        if sample.masks is not None:
            sample.masks = np.ascontiguousarray(sample.masks[kept][:, rows, columns])
            if self.recompute_bbox:
                sample.boxes = mask_boxes(sample.masks)
        return sample

    def _window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(int(first), height), min(int(second), width)
        if self.crop_type == "absolute_range":
            low, high = int(min(first, second)), int(max(first, second))
            drawn_h = int(rng.integers(min(height, low), min(height, high) + 1))
            return drawn_h, int(rng.integers(min(width, low), min(width, high) + 1))
        if self.crop_type == "relative_range":
            first += rng.random() * (1 - first)
            second += rng.random() * (1 - second)
        return int(height * first + 0.5), int(width * second + 0.5)

    def _shift(
        self, boxes: NDArray[np.float32], left: int, top: int, image_hw: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        moved = boxes - np.array([left, top, left, top], np.float32)
        if self.bbox_clip_border:
            moved = clip_boxes(moved, image_hw)
        kept = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        return moved[kept], kept


def mask_boxes(masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(G, 4) tight xyxy boxes of (G, H, W) masks, right and bottom exclusive; zeros for an empty mask."""
    out = np.zeros((len(masks), 4), np.float32)
    for i, mask in enumerate(masks):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(columns):
            out[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return out
