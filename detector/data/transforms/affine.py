"""Rotation, scale, shear and translation in one warp.

Shapes: H x W the current image, G boxes.
Boxes: xyxy float32 pixels of the current image.
Source: Ge et al., YOLOX, arXiv:2107.08430; behaviour checked against MMDetection 2.28.2 RandomAffine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.transforms.geometric import clip_boxes
from detector.data.transforms.photometric import interval
from detector.data.transforms.sample import Sample
from detector.errors import ConfigError


class RandomAffine:
    """Warps the image about its upper left corner; a box becomes the upright hull of its four warped corners.

    Args:
        max_rotate_degree: largest rotation, each way.
        max_translate_ratio: largest translation as a fraction of the output, each way.
        scaling_ratio_range: (low, high) factor.
        max_shear_degree: largest shear of each axis, each way.
        border: (height, width) added on each side of the output; negative ones cut, as after Mosaic.
        border_val: pixel value where the image does not reach.
        min_bbox_size, min_area_ratio, max_aspect_ratio: what a box must keep, with ``skip_filter=False``:
            width and height above it in pixels, area over the scaled original's above it, longer over shorter
            side below it.
        bbox_clip_border: whether boxes are clipped to the output.
        skip_filter: keep every box that touches the output.
    """

    def __init__(
        self,
        *,
        max_rotate_degree: float = 10.0,
        max_translate_ratio: float = 0.1,
        scaling_ratio_range: Sequence[float] = (0.5, 1.5),
        max_shear_degree: float = 2.0,
        border: Sequence[int] = (0, 0),
        border_val: Sequence[float] = (114, 114, 114),
        min_bbox_size: float = 2,
        min_area_ratio: float = 0.2,
        max_aspect_ratio: float = 20,
        bbox_clip_border: bool = True,
        skip_filter: bool = True,
    ) -> None:
        if not 0 <= max_translate_ratio <= 1:
            raise ConfigError(
                f"RandomAffine.max_translate_ratio is {max_translate_ratio!r}; expected a number in [0, 1]."
            )
        self.scaling_ratio_range = interval(scaling_ratio_range, "RandomAffine.scaling_ratio_range")
        if self.scaling_ratio_range[0] <= 0:
            raise ConfigError(
                f"RandomAffine.scaling_ratio_range is {tuple(scaling_ratio_range)}; expected factors above 0."
            )
        self.max_rotate_degree = max_rotate_degree
        self.max_translate_ratio = max_translate_ratio
        self.max_shear_degree = max_shear_degree
        self.border = (int(border[0]), int(border[1]))
        self.border_val = tuple(border_val)
        self.limits = BoxLimits(min_bbox_size, min_area_ratio, max_aspect_ratio)
        self.bbox_clip_border = bbox_clip_border
        self.skip_filter = skip_filter

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw a warp and apply it."""
        image = sample.pixels()
        height, width = image.shape[0] + 2 * self.border[0], image.shape[1] + 2 * self.border[1]
        if height < 1 or width < 1:
            raise ConfigError(
                f"RandomAffine.border is {self.border} for an image of {image.shape[1]}x{image.shape[0]} "
                "(width x height), which leaves nothing. Give a smaller border."
            )
        matrix, scale = self._matrix((height, width), rng)
        masks, semantic = sample.masks, sample.semantic
        sample.replace_image(
            cv2.warpPerspective(image, matrix, dsize=(width, height), borderValue=self.border_val)
        )
        if sample.boxes is not None:
            boxes, kept = self._boxes(sample.boxes, matrix, scale, (height, width))
            sample.boxes = boxes
            sample.keep(kept)
        if sample.ignore_boxes is not None:
            boxes, kept = self._boxes(sample.ignore_boxes, matrix, scale, (height, width))
            sample.ignore_boxes = boxes[kept]
        if masks is not None and sample.masks is not None:
            sample.masks = np.stack(
                [_warped_map(mask, matrix, (width, height), 0) for mask in sample.masks]
                or [np.zeros((height, width), np.uint8)]
            )[: len(sample.masks)]
        if semantic is not None:
            sample.semantic = _warped_map(semantic, matrix, (width, height), 255)
        return sample

    def _matrix(self, out_hw: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray[np.float32], float]:
        """(3, 3) matrix from input to output pixels, and its scale."""
        angle = math.radians(rng.uniform(-self.max_rotate_degree, self.max_rotate_degree))
        scale = float(rng.uniform(*self.scaling_ratio_range))
        shears = rng.uniform(-self.max_shear_degree, self.max_shear_degree, 2)
        x, y = rng.uniform(-self.max_translate_ratio, self.max_translate_ratio, 2)
        cos, sin = math.cos(angle), math.sin(angle)
        scaling = np.diag([scale, scale, 1]).astype(np.float32)
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)
        tan_x, tan_y = (math.tan(math.radians(float(s))) for s in shears)
        shear = np.array([[1, tan_x, 0], [tan_y, 1, 0], [0, 0, 1]], np.float32)
        move = np.array([[1, 0, x * out_hw[1]], [0, 1, y * out_hw[0]], [0, 0, 1]], np.float32)
        matrix = np.asarray(move @ shear @ rotation @ scaling, np.float32)
        return matrix, scale

    def _boxes(
        self, boxes: NDArray[np.float32], matrix: NDArray[np.float32], scale: float, out_hw: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(G, 4) warped boxes and (G,) which of them count."""
        hulls = warp_boxes(boxes, matrix)
        if self.bbox_clip_border:
            hulls = clip_boxes(hulls, out_hw)
        kept = touches(hulls, out_hw)
        if not self.skip_filter:
            kept &= self.limits.passed(boxes * np.float32(scale), hulls)
        return hulls, kept


class BoxLimits:
    """What a box must keep through an augmentation.

    Args:
        min_size: width and height must exceed it, in pixels.
        min_area_ratio: area after over area before must exceed it.
        max_aspect_ratio: longer over shorter side must be below it.
    """

    def __init__(self, min_size: float, min_area_ratio: float, max_aspect_ratio: float) -> None:
        self.min_size = min_size
        self.min_area_ratio = min_area_ratio
        self.max_aspect_ratio = max_aspect_ratio

    def passed(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(G,) which boxes pass, given (G, 4) boxes before and after."""
        old, new = before[:, 2:] - before[:, :2], after[:, 2:] - after[:, :2]
        w, h = new[:, 0], new[:, 1]
        aspect = np.maximum(w / (h + 1e-16), h / (w + 1e-16))
        share = w * h / (old.prod(axis=1) + 1e-16)
        kept: NDArray[np.bool_] = (
            (w > self.min_size)
            & (h > self.min_size)
            & (share > self.min_area_ratio)
            & (aspect < self.max_aspect_ratio)
        )
        return kept


def touches(boxes: NDArray[np.float32], image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """(G,) whether a part of each box lies inside the image."""
    height, width = image_hw
    inside: NDArray[np.bool_] = (
        (boxes[:, 0] < width) & (boxes[:, 2] > 0) & (boxes[:, 1] < height) & (boxes[:, 3] > 0)
    )
    return inside


def warp_boxes(boxes: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """(G, 4) upright hulls of boxes warped by a (3, 3) matrix."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)  # (G, 8) -> (4 G, 2) x, y
    points = np.concatenate([corners, np.ones((len(corners), 1), np.float32)], axis=1) @ matrix.T
    flat = (points[:, :2] / points[:, 2:]).reshape(-1, 4, 2)
    return np.concatenate([flat.min(axis=1), flat.max(axis=1)], axis=1).astype(np.float32)


def _warped_map(
    array: NDArray[np.uint8], matrix: NDArray[np.float32], size: tuple[int, int], value: int
) -> NDArray[np.uint8]:
    warped: NDArray[np.uint8] = cv2.warpPerspective(
        array, matrix, dsize=size, flags=cv2.INTER_NEAREST, borderValue=value
    )
    return warped
