"""Pixel values.

Shapes: H x W the image.
Source: behaviour checked against MMDetection 2.28.2 and, for Normalize, mmcv 1.7 imnormalize.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detector.data.transforms.sample import Array, Sample
from detector.errors import ConfigError


class Normalize:
    """(pixel - mean) / std per channel, in float32.

    Bit for bit the reference's: subtraction in float32, then a product with the float64 reciprocal of the
    float32
    std, rounded once. (A float32 reciprocal differs in the last bit of 28 % of the values.) The result is
    laid out as three planes, so that the later transposition to (3, H, W) copies nothing.

    Args:
        mean: three values in the order of the result's channels.
        std: likewise.
        to_rgb: whether to turn BGR into RGB first.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], to_rgb: bool = True) -> None:
        self.mean = np.array(mean, np.float32)
        self.std = np.array(std, np.float32)
        self.factor = 1.0 / self.std.astype(np.float64)
        self.to_rgb = to_rgb
        # value of every uint8 pixel per channel: the same operations, done 256 times
        levels = np.arange(256, dtype=np.float32)[None, :] - self.mean[:, None]
        self.table = (levels * self.factor[:, None]).astype(np.float32)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Replace the image by its normalised planes."""
        image = sample.pixels()
        height, width, channels = image.shape
        planes = np.empty((channels, height, width), np.float32)
        for c in range(channels):
            source = channels - 1 - c if self.to_rgb else c
            channel = cv2.extractChannel(image, source)
            if image.dtype == np.uint8:
                cv2.LUT(channel, self.table[c], dst=planes[c])
            else:
                planes[c] = (channel.astype(np.float32) - self.mean[c]) * self.factor[c]
        # (3, H, W) -> (H, W, 3), a view
        sample.image = planes.transpose(1, 2, 0)
        return sample


class PhotoMetricDistortion:
    """Changes brightness, contrast, saturation and hue, and swaps channels, each with probability 1/2.

    Contrast comes before or after the colours with equal odds. The image becomes float32.

    Args:
        brightness_delta: largest amount added, in pixel values.
        contrast_range: (low, high) factor of the pixel values.
        saturation_range: (low, high) factor of the saturation.
        hue_delta: largest turn of the hue, in degrees.

    Source: Liu et al., SSD, ECCV 2016, arXiv:1512.02325; checked against MMDetection 2.28.2
    PhotoMetricDistortion.
    """

    def __init__(
        self,
        *,
        brightness_delta: float = 32,
        contrast_range: Sequence[float] = (0.5, 1.5),
        saturation_range: Sequence[float] = (0.5, 1.5),
        hue_delta: float = 18,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = interval(contrast_range, "PhotoMetricDistortion.contrast_range")
        self.saturation_range = interval(saturation_range, "PhotoMetricDistortion.saturation_range")
        self.hue_delta = hue_delta

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        image = sample.pixels().astype(np.float32)
        if rng.integers(2):
            image += np.float32(rng.uniform(-self.brightness_delta, self.brightness_delta))
        contrast_first = bool(rng.integers(2))
        if contrast_first:
            image = self._contrast(image, rng)
        image = self._colours(image, rng)
        if not contrast_first:
            image = self._contrast(image, rng)
        if rng.integers(2):
            image = image[..., rng.permutation(image.shape[-1])]
        sample.image = np.ascontiguousarray(image)
        return sample

    def _contrast(self, image: Array, rng: np.random.Generator) -> Array:
        """The (H, W, 3) float32 image times a drawn factor, or as it is."""
        return image * np.float32(rng.uniform(*self.contrast_range)) if rng.integers(2) else image

    def _colours(self, image: Array, rng: np.random.Generator) -> Array:
        """Saturation and hue of a (H, W, 3) float32 BGR image."""
        saturation = rng.uniform(*self.saturation_range) if rng.integers(2) else None
        hue = rng.uniform(-self.hue_delta, self.hue_delta) if rng.integers(2) else None
        # in float32, OpenCV's hue lies in [0, 360] and its saturation in [0, 1] whatever the pixels' range
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        if saturation is not None:
            # beyond 1 where the factor says so: the reference does not clip it, and colours may turn negative
            hsv[..., 1] *= np.float32(saturation)
        if hue is not None:
            turned = hsv[..., 0] + np.float32(hue)
            turned[turned > 360] -= 360
            turned[turned < 0] += 360
            hsv[..., 0] = turned
        changed: Array = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return changed


class YOLOXHSVRandomAug:
    """Turns hue, saturation and value of a uint8 image by whole amounts, each with probability 1/2.

    Args:
        hue_delta: largest turn of the hue (OpenCV's scale of 180).
        saturation_delta: largest change of the saturation (of 255).
        value_delta: largest change of the value (of 255).

    Source: Ge et al., YOLOX, arXiv:2107.08430; checked against MMDetection 2.28.2 YOLOXHSVRandomAug.
    """

    def __init__(
        self, *, hue_delta: float = 5, saturation_delta: float = 30, value_delta: float = 30
    ) -> None:
        self.deltas = np.array([hue_delta, saturation_delta, value_delta], np.float64)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        image = sample.pixels()
        if image.dtype != np.uint8:
            raise ConfigError(
                f"YOLOXHSVRandomAug got a {image.dtype} image; expected uint8. Put it before the steps that "
                "make floats, and remove to_float32."
            )
        gains = (rng.uniform(-1, 1, 3) * self.deltas * rng.integers(0, 2, 3)).astype(np.int16)
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        levels = np.arange(256, dtype=np.int16)
        table = np.stack(
            [
                (levels + gains[0]) % 180,
                np.clip(levels + gains[1], 0, 255),
                np.clip(levels + gains[2], 0, 255),
            ],
            axis=-1,
        )
        changed = cv2.LUT(hsv, table[None].astype(np.uint8))
        sample.image = cv2.cvtColor(changed, cv2.COLOR_HSV2BGR)
        return sample


def interval(values: Sequence[float], where: str) -> tuple[float, float]:
    """(low, high), or ConfigError."""
    if not isinstance(values, Sequence) or len(values) != 2 or not values[0] <= values[1]:
        raise ConfigError(f"{where} is {values!r}; expected two numbers (low, high), low first.")
    return float(values[0]), float(values[1])
