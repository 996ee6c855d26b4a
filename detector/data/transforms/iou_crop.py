"""Crops that keep a wanted overlap with the objects.

Shapes: H x W the current image, G boxes.
Boxes: xyxy float32 pixels of the current image.
Source: Liu et al., SSD, ECCV 2016, arXiv:1512.02325; behaviour checked against MMDetection 2.28.2
MinIoURandomCrop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detector.data.transforms.geometric import clip_boxes
from detector.data.transforms.sample import Sample
from detector.errors import ConfigError

TRIES = 50
#: draws of a wanted overlap before the image stays whole; the reference draws on without end
ROUNDS = 200
#: a window's height is at most twice its width, and the other way round
MAX_ASPECT = 2.0

Window = tuple[int, int, int, int]


class MinIoURandomCrop:
    """Cuts a window that overlaps every object by at least a drawn IoU, or leaves the image whole.

    Objects whose centre lies outside the window are dropped. Where no object is known, the first window of
    an allowed shape is taken.

    Args:
        min_ious: the IoUs to draw from, besides 0 (any window) and 1 (the whole image).
        min_crop_size: least side of the window as a fraction of the image's.
        bbox_clip_border: whether boxes are clipped to the window.
    """

    def __init__(
        self,
        *,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        bbox_clip_border: bool = True,
    ) -> None:
        if any(not 0 <= iou <= 1 for iou in min_ious):
            raise ConfigError(f"MinIoURandomCrop.min_ious is {min_ious!r}; expected numbers in [0, 1].")
        if not 0 < min_crop_size <= 1:
            raise ConfigError(
                f"MinIoURandomCrop.min_crop_size is {min_crop_size!r}; expected a number in (0, 1]."
            )
        self.modes = (1.0, *min_ious, 0.0)
        self.min_crop_size = min_crop_size
        self.bbox_clip_border = bbox_clip_border

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw a window and cut it out."""
        height, width = sample.pixels().shape[:2]
        present = [boxes for boxes in (sample.boxes, sample.ignore_boxes) if boxes is not None]
        boxes = np.concatenate(present) if present else np.zeros((0, 4), np.float32)
        for _ in range(ROUNDS):
            min_iou = self.modes[int(rng.integers(len(self.modes)))]
            if min_iou == 1:
                return sample
            window = self._window((height, width), boxes, min_iou, rng)
            if window is not None:
                return self._cut(sample, window)
        return sample

    def _window(
        self, image_hw: tuple[int, int], boxes: NDArray[np.float32], min_iou: float, rng: np.random.Generator
    ) -> Window | None:
        """(left, top, right, bottom) of a fitting window, or None after fifty tries."""
        height, width = image_hw
        for _ in range(TRIES):
            new_w = rng.uniform(self.min_crop_size * width, width)
            new_h = rng.uniform(self.min_crop_size * height, height)
            if not 1 / MAX_ASPECT <= new_h / new_w <= MAX_ASPECT:
                continue
            left, top = rng.uniform(0, width - new_w), rng.uniform(0, height - new_h)
            window = (int(left), int(top), int(left + new_w), int(top + new_h))
            if window[2] == window[0] or window[3] == window[1]:
                continue
            if not len(boxes):
                return window
            if window_ious(window, boxes).min() >= min_iou and centred(window, boxes).any():
                return window
        return None

    def _cut(self, sample: Sample, window: Window) -> Sample:
        left, top, right, bottom = window
        rows, columns = slice(top, bottom), slice(left, right)
        if sample.boxes is not None:
            sample.keep(centred(window, sample.boxes))
            sample.boxes = self._moved(sample.boxes, window)
        if sample.ignore_boxes is not None:
            kept = sample.ignore_boxes[centred(window, sample.ignore_boxes)]
            sample.ignore_boxes = self._moved(kept, window)
        if sample.masks is not None:
            sample.masks = np.ascontiguousarray(sample.masks[:, rows, columns])
        if sample.semantic is not None:
            sample.semantic = sample.semantic[rows, columns]
        sample.replace_image(sample.pixels()[rows, columns])
        return sample

    def _moved(self, boxes: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
        left, top, right, bottom = window
        moved = boxes - np.array([left, top, left, top], np.float32)
        return clip_boxes(moved, (bottom - top, right - left)) if self.bbox_clip_border else moved


def centred(window: Window, boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(G,) whether each box's centre lies inside the window, its edges excluded."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = np.array(window[:2]), np.array(window[2:])
    inside: NDArray[np.bool_] = np.all((centre > low) & (centre < high), axis=1)
    return inside


def window_ious(window: Window, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """(G,) IoU of each box with the window; 0 where a box is empty."""
    low = np.maximum(boxes[:, :2], np.array(window[:2]))
    high = np.minimum(boxes[:, 2:], np.array(window[2:]))
    inner = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1)
    union = (window[2] - window[0]) * (window[3] - window[1]) + areas - inner
    ious: NDArray[np.float64] = inner / np.maximum(union, 1e-6)
    return ious
