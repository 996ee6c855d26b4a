"""The image on a larger canvas, moved inside its own, or with holes.

Shapes: H x W the current image, G boxes.
Boxes: xyxy float32 pixels of the current image.
Source: behaviour checked against MMDetection 2.28.2 Expand, RandomShift and CutOut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.data.transforms.geometric import clip_boxes
from detector.data.transforms.photometric import interval
from detector.data.transforms.sample import Array, Sample
from detector.errors import ConfigError


class Expand:
    """Puts the image at a random place of a larger canvas, so that objects become small.

    Args:
        mean: pixel value of the canvas, in RGB where ``to_rgb``.
        to_rgb: whether ``mean`` is in RGB; it is turned to the image's BGR.
        ratio_range: (low, high) of the canvas' side over the image's.
        seg_ignore_label: class map value of the canvas; None means 255.
        prob: how often to do it.
    """

    def __init__(
        self,
        *,
        mean: Sequence[float] = (0, 0, 0),
        to_rgb: bool = True,
        ratio_range: Sequence[float] = (1, 4),
        seg_ignore_label: int | None = None,
        prob: float = 0.5,
    ) -> None:
        self.ratio_range = interval(ratio_range, "Expand.ratio_range")
        if self.ratio_range[0] < 1:
            raise ConfigError(f"Expand.ratio_range is {tuple(ratio_range)}; expected factors of at least 1.")
        self.mean = tuple(mean)[::-1] if to_rgb else tuple(mean)
        self.seg_ignore_label = 255 if seg_ignore_label is None else seg_ignore_label
        self.prob = probability(prob, "Expand.prob")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw whether, how large and where."""
        if rng.random() > self.prob:
            return sample
        image = sample.pixels()
        height, width = image.shape[:2]
        ratio = rng.uniform(*self.ratio_range)
        left, top = int(rng.uniform(0, width * ratio - width)), int(rng.uniform(0, height * ratio - height))
        size = (int(height * ratio), int(width * ratio))
        sample.replace_image(pasted(image, size, (top, left), self.mean))
        offset = np.array([left, top, left, top], np.float32)
        sample.boxes = None if sample.boxes is None else sample.boxes + offset
        sample.ignore_boxes = None if sample.ignore_boxes is None else sample.ignore_boxes + offset
        if sample.masks is not None:
            masks = np.zeros((len(sample.masks), *size), np.uint8)
            masks[:, top : top + height, left : left + width] = sample.masks
            sample.masks = masks
        if sample.semantic is not None:
            grown = pasted(sample.semantic[..., None], size, (top, left), self.seg_ignore_label)
            sample.semantic = grown[..., 0]
        return sample


class RandomShift:
    """Moves the image inside its frame; what leaves is lost and what is uncovered is black.

    A move that would leave no object is not made.

    Args:
        shift_ratio: how often to do it.
        max_shift_px: largest move in pixels, each way.
        filter_thr_px: objects whose width or height is at most so many pixels afterwards are dropped.

    Source: Chen et al., YOLOF, CVPR 2021, arXiv:2103.09460.
    """

    def __init__(self, *, shift_ratio: float = 0.5, max_shift_px: int = 32, filter_thr_px: float = 1) -> None:
        if max_shift_px < 0:
            raise ConfigError(f"RandomShift.max_shift_px is {max_shift_px}; expected at least 0.")
        self.shift_ratio = probability(shift_ratio, "RandomShift.shift_ratio")
        self.max_shift_px = int(max_shift_px)
        self.filter_thr_px = filter_thr_px

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw whether and how far."""
        if rng.random() >= self.shift_ratio:
            return sample
        limit = self.max_shift_px
        x, y = (int(v) for v in rng.integers(-limit, limit, size=2, endpoint=True))
        image_hw = (int(sample.pixels().shape[0]), int(sample.pixels().shape[1]))
        if sample.boxes is not None:
            moved, kept = self._moved(sample.boxes, x, y, image_hw)
            if len(kept) and not kept.any():
                return sample
            sample.boxes = moved
            sample.keep(kept)
        if sample.ignore_boxes is not None:
            moved, kept = self._moved(sample.ignore_boxes, x, y, image_hw)
            sample.ignore_boxes = moved[kept]
        sample.image = shifted(sample.pixels(), x, y, 0)
        if sample.masks is not None:
            # (G, H, W) -> (H, W, G) and back, views
            turned = shifted(sample.masks.transpose(1, 2, 0), x, y, 0)
            sample.masks = np.ascontiguousarray(turned.transpose(2, 0, 1))
        if sample.semantic is not None:
            sample.semantic = shifted(sample.semantic, x, y, 255)
        return sample

    def _moved(
        self, boxes: NDArray[np.float32], x: int, y: int, image_hw: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        moved = clip_boxes(boxes + np.array([x, y, x, y], np.float32), image_hw)
        kept: NDArray[np.bool_] = np.all(moved[:, 2:] - moved[:, :2] > self.filter_thr_px, axis=1)
        return moved, kept


class CutOut:
    """Fills rectangles of the image with one colour; objects stay as they are.

    Args:
        n_holes: how many, or (fewest, most).
        cutout_shape: (width, height) in pixels, or several to draw from; or
        cutout_ratio: (width, height) as fractions of the image, or several.
        fill_in: pixel value of the holes.

    Source: DeVries and Taylor, arXiv:1708.04552.
    """

    def __init__(
        self,
        *,
        n_holes: int | Sequence[int],
        cutout_shape: Sequence[Any] | None = None,
        cutout_ratio: Sequence[Any] | None = None,
        fill_in: Sequence[float] = (0, 0, 0),
    ) -> None:
        if (cutout_shape is None) == (cutout_ratio is None):
            raise ConfigError("CutOut needs exactly one of cutout_shape and cutout_ratio.")
        counts = [n_holes, n_holes] if isinstance(n_holes, int) else list(n_holes)
        if len(counts) != 2 or not 0 <= counts[0] <= counts[1]:
            raise ConfigError(f"CutOut.n_holes is {n_holes!r}; expected a number or (fewest, most).")
        given: Sequence[Any] = cutout_ratio or cutout_shape or ()
        self.sizes = list(given) if given and isinstance(given[0], Sequence) else [given]
        self.relative = cutout_ratio is not None
        self.counts = (counts[0], counts[1])
        self.fill_in = fill_in

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw number, places and sizes of the holes."""
        image = sample.pixels().copy()
        height, width = image.shape[:2]
        for _ in range(int(rng.integers(self.counts[0], self.counts[1], endpoint=True))):
            left, top = int(rng.integers(width)), int(rng.integers(height))
            hole_w, hole_h = self.sizes[int(rng.integers(len(self.sizes)))]
            if self.relative:
                hole_w, hole_h = int(hole_w * width), int(hole_h * height)
            image[top : top + hole_h, left : left + hole_w] = self.fill_in
        sample.image = image
        return sample


def pasted(
    array: Array, size: tuple[int, int], corner: tuple[int, int], value: float | Sequence[float]
) -> Array:
    """(h, w, C) on a canvas of ``size`` (H, W) with its upper left at ``corner`` (top, left)."""
    out = np.empty((*size, array.shape[2]), array.dtype)
    out[:] = value
    out[corner[0] : corner[0] + array.shape[0], corner[1] : corner[1] + array.shape[1]] = array
    return out


def shifted(array: Array, x: int, y: int, value: float) -> Array:
    """(H, W, ...) moved right by x and down by y inside its frame."""
    height, width = array.shape[:2]
    out = np.full_like(array, value)
    if abs(x) < width and abs(y) < height:
        out[max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)] = array[
            max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)
        ]
    return out


def probability(value: float, where: str) -> float:
    """The value, or ConfigError outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{where} is {value!r}; expected a number in [0, 1].")
    return float(value)
