"""Resize and flip: the image, its boxes and its masks together.

Shapes: H x W the current image, G boxes.
Boxes: xyxy float32 pixels of the current image.
Source: behaviour checked against MMDetection 2.28.2 datasets/pipelines/transforms.py and mmcv 1.7
image/geometric.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.transforms.sample import Array, Sample
from detector.errors import ConfigError

Scale: TypeAlias = tuple[int, int]
Scales: TypeAlias = Sequence[int] | Sequence[Sequence[int]]

INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
BACKENDS = ("cv2", "pillow")
DIRECTIONS = ("horizontal", "vertical", "diagonal")
# cv2.flip codes
FLIP_CODES = {"horizontal": 1, "vertical": 0, "diagonal": -1}


def scale_list(scales: Scales, where: str) -> list[Scale]:
    """One (width, height) or a list of them, as a list of int pairs."""
    pairs: Sequence[object] = scales if scales and isinstance(scales[0], Sequence) else [scales]
    out: list[Scale] = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2 or any(not n > 0 for n in pair):
            raise ConfigError(
                f"{where} is {scales!r}; expected (width, height) or a list of such pairs, all > 0."
            )
        out.append((int(pair[0]), int(pair[1])))
    return out


def check_direction(direction: str, where: str) -> None:
    """Raise ConfigError for an unknown flip direction."""
    if direction not in DIRECTIONS:
        raise ConfigError(f"{where} is {direction!r}; accepted: {', '.join(DIRECTIONS)}.")


def rescaled_size(width: int, height: int, scale: Scale) -> tuple[int, int]:
    """The largest (width, height) of the same ratio inside ``scale`` (its edges in any order)."""
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(width * float(factor) + 0.5), int(height * float(factor) + 0.5)


def resize_masks(masks: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """(G, h, w) to (G, height, width) by the nearest pixel."""
    out = np.empty((len(masks), height, width), np.uint8)
    for i, mask in enumerate(masks):
        cv2.resize(mask, (width, height), dst=out[i], interpolation=cv2.INTER_NEAREST)
    return out


def resize_image(image: Array, size: Scale, interpolation: str) -> Array:
    """(h, w, ...) to (height, width, ...) by OpenCV; ``size`` is (width, height)."""
    resized: Array = cv2.resize(image, size, interpolation=INTERPOLATION[interpolation])
    return resized


def resize_by_pillow(image: Array, size: Scale, interpolation: str) -> Array:
    """(h, w, ...) uint8 to (height, width, ...) by Pillow; ``size`` is (width, height).

    Raises:
        ConfigError: the image is not uint8.
    """
    from PIL import Image

    if image.dtype != np.uint8:
        raise ConfigError(
            f"Resize(backend='pillow') got a {image.dtype} image; expected uint8. Put it before the "
            "steps that make floats, or use backend='cv2'."
        )
    return np.array(Image.fromarray(image.squeeze()).resize(size, Image.Resampling[interpolation.upper()]))


def flip_boxes(boxes: NDArray[np.float32], image_hw: tuple[int, int], direction: str) -> NDArray[np.float32]:
    """Mirrored (n, 4) xyxy boxes: x becomes width - x, y becomes height - y."""
    height, width = image_hw
    out = boxes.copy()
    if direction in ("horizontal", "diagonal"):
        out[:, 0], out[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    if direction in ("vertical", "diagonal"):
        out[:, 1], out[:, 3] = height - boxes[:, 3], height - boxes[:, 1]
    return out


def clip_boxes(boxes: NDArray[np.float32], image_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes clipped to [0, width] x [0, height]."""
    height, width = image_hw
    limit = np.array([width, height, width, height], np.float32)
    clipped: NDArray[np.float32] = np.minimum(np.maximum(boxes, np.float32(0)), limit)
    return clipped


class Resize:
    """Scales the image, boxes, masks and class map.

    Args:
        img_scale: (width, height) or a list; with keep_ratio only the longer and the shorter number matter.
        multiscale_mode: with several scales, 'range' draws both edges between the extremes, 'value' draws
        one scale.
        ratio_range: with one scale, draws a factor of it from this interval.
        keep_ratio: whether width and height get the same factor.
        bbox_clip_border: whether boxes are clipped to the image.
        backend: 'cv2', or 'pillow', which averages over more pixels when it shrinks (uint8 only).
        interpolation: a key of ``INTERPOLATION``, for the image ('pillow' has no 'area').
        override: whether a second Resize in one pipeline draws anew instead of being an error.
    """

    def __init__(
        self,
        *,
        img_scale: Scales | None = None,
        multiscale_mode: str = "range",
        ratio_range: Sequence[float] | None = None,
        keep_ratio: bool = True,
        bbox_clip_border: bool = True,
        backend: str = "cv2",
        interpolation: str = "bilinear",
        override: bool = False,
    ) -> None:
        self.scales = [] if img_scale is None else scale_list(img_scale, "Resize.img_scale")
        if multiscale_mode not in ("range", "value"):
            raise ConfigError(f"Resize.multiscale_mode is {multiscale_mode!r}; accepted: 'range', 'value'.")
        if ratio_range is not None and len(self.scales) != 1:
            raise ConfigError(f"Resize.ratio_range needs one img_scale, found {len(self.scales)}.")
        if ratio_range is None and multiscale_mode == "range" and len(self.scales) > 2:
            raise ConfigError(
                f"Resize.img_scale has {len(self.scales)} scales with multiscale_mode='range', which takes "
                "the two "
                "extremes. Give two scales, or set multiscale_mode='value' to draw one of them."
            )
        if interpolation not in INTERPOLATION:
            raise ConfigError(
                f"Resize.interpolation is {interpolation!r}; accepted: {', '.join(INTERPOLATION)}."
            )
        if backend not in BACKENDS or (backend == "pillow" and interpolation == "area"):
            raise ConfigError(
                f"Resize.backend is {backend!r} with interpolation {interpolation!r}; accepted: "
                f"{', '.join(BACKENDS)}, and 'area' with cv2 only."
            )
        self.multiscale_mode = multiscale_mode
        self.ratio_range = ratio_range
        self.keep_ratio = keep_ratio
        self.bbox_clip_border = bbox_clip_border
        self.interpolation = interpolation
        self.resize = resize_image if backend == "cv2" else resize_by_pillow
        self.override = override

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Resize to the preset scale, else to a drawn one."""
        if sample.resized:
            if not self.override:
                raise ConfigError(
                    "A second Resize in one pipeline needs override=True. Set it, or remove one Resize."
                )
            sample.scale = None
        image = sample.pixels()
        height, width = image.shape[:2]
        scale = self._scale(sample, rng)
        new_width, new_height = rescaled_size(width, height, scale) if self.keep_ratio else scale
        resized = self.resize(image, (new_width, new_height), self.interpolation)
        sample.image = resized if resized.ndim == 3 else resized[..., None]
        x, y = np.float32(new_width / width), np.float32(new_height / height)
        sample.scale, sample.resized = scale, True
        sample.scale_factor = (float(x), float(y), float(x), float(y))
        sample.input_hw = sample.pad_hw = (new_height, new_width)
        factor = np.array([x, y, x, y], np.float32)
        sample.boxes = self._boxes(sample.boxes, factor, sample.input_hw)
        sample.ignore_boxes = self._boxes(sample.ignore_boxes, factor, sample.input_hw)
        sample.proposals = self._boxes(sample.proposals, factor, sample.input_hw)
        if sample.masks is not None:
            sample.masks = resize_masks(sample.masks, new_width, new_height)
        if sample.semantic is not None:
            sample.semantic = self.resize(sample.semantic, (new_width, new_height), "nearest")
        return sample

    def _scale(self, sample: Sample, rng: np.random.Generator) -> Scale:
        """The preset scale or factor, else a draw."""
        if sample.scale is not None:
            return sample.scale
        if sample.ratio is not None:
            height, width = sample.pixels().shape[:2]
            return int(width * sample.ratio), int(height * sample.ratio)
        if not self.scales:
            raise ConfigError("Resize has no img_scale, and no MultiScaleFlipAug gave one. Set img_scale.")
        if self.ratio_range is not None:
            low, high = self.ratio_range
            ratio = rng.random() * (high - low) + low
            return int(self.scales[0][0] * ratio), int(self.scales[0][1] * ratio)
        if len(self.scales) == 1:
            return self.scales[0]
        if self.multiscale_mode == "value":
            return self.scales[int(rng.integers(len(self.scales)))]
        longs, shorts = [max(s) for s in self.scales], [min(s) for s in self.scales]
        long_edge = int(rng.integers(min(longs), max(longs) + 1))
        return long_edge, int(rng.integers(min(shorts), max(shorts) + 1))

    def _boxes(
        self, boxes: NDArray[np.float32] | None, factor: NDArray[np.float32], image_hw: tuple[int, int]
    ) -> NDArray[np.float32] | None:
        if boxes is None:
            return None
        scaled = boxes * factor
        return clip_boxes(scaled, image_hw) if self.bbox_clip_border else scaled


class RandomFlip:
    """Mirrors the sample.

    Args:
        flip_ratio: probability of a flip, shared evenly by the directions; or one probability per direction.
            None: only a decision preset by MultiScaleFlipAug is obeyed.
        direction: one direction or several of 'horizontal', 'vertical', 'diagonal'.
    """

    def __init__(
        self,
        *,
        flip_ratio: float | Sequence[float] | None = None,
        direction: str | Sequence[str] = "horizontal",
    ) -> None:
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        for name in self.directions:
            check_direction(name, "RandomFlip.direction")
        if flip_ratio is None:
            self.odds = None
            return
        each = (
            flip_ratio
            if isinstance(flip_ratio, Sequence)
            else [flip_ratio / len(self.directions)] * len(self.directions)
        )
        if len(each) != len(self.directions) or min(each) < 0 or sum(each) > 1 + 1e-9:
            raise ConfigError(
                f"RandomFlip.flip_ratio is {flip_ratio!r} for direction {self.directions}; expected one "
                "number in "
                "[0, 1], or one per direction with a sum of at most 1."
            )
        self.odds = np.cumsum(np.array(each, np.float64))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Flip as preset, else by a draw."""
        if sample.flip is None:
            if self.odds is None:
                raise ConfigError(
                    "RandomFlip has no flip_ratio, and no MultiScaleFlipAug decides. Set flip_ratio."
                )
            chosen = int(np.searchsorted(self.odds, rng.random(), side="right"))
            sample.flip_direction = self.directions[chosen] if chosen < len(self.directions) else None
        direction = sample.flip_direction
        if direction is None:
            return sample
        code = FLIP_CODES[direction]
        image = cv2.flip(sample.pixels(), code)
        sample.image = image if image.ndim == 3 else image[..., None]
        if sample.boxes is not None:
            sample.boxes = flip_boxes(sample.boxes, sample.input_hw, direction)
        if sample.ignore_boxes is not None:
            sample.ignore_boxes = flip_boxes(sample.ignore_boxes, sample.input_hw, direction)
        if sample.proposals is not None:
            sample.proposals = flip_boxes(sample.proposals, sample.input_hw, direction)
        if sample.masks is not None:
            flipped = np.empty_like(sample.masks)
            for i, mask in enumerate(sample.masks):
                cv2.flip(mask, code, dst=flipped[i])
            sample.masks = flipped
        if sample.semantic is not None:
            sample.semantic = cv2.flip(sample.semantic, code)
        return sample
