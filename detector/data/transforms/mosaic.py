"""Four images around one corner.

Shapes: H x W the canvas, G boxes.
Boxes: xyxy float32 pixels of the current image.
Source: Ge et al., YOLOX, arXiv:2107.08430; behaviour checked against MMDetection 2.28.2 Mosaic (difference:
ignored boxes, masks and class maps go along).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detector.data.transforms.affine import touches
from detector.data.transforms.geometric import clip_boxes, resize_masks
from detector.data.transforms.mixing import Mixing, Pool, join_objects, size_hw
from detector.data.transforms.photometric import interval
from detector.data.transforms.placing import probability
from detector.data.transforms.sample import Array, Sample

#: (left, top, right, bottom)
Rectangle = tuple[int, int, int, int]


class Mosaic(Mixing):
    """Four images around a random centre, on a canvas of twice ``img_scale``.

    Args:
        img_scale: (height, width) that every image is fitted into.
        center_ratio_range: (low, high) of the centre's place over ``img_scale``.
        min_bbox_size: with ``skip_filter=False``, width and height that a box must exceed.
        bbox_clip_border: whether boxes are clipped to the canvas.
        skip_filter: keep boxes of any size.
        pad_val: pixel value where no image reaches.
        prob: how often to do it.
    """

    def __init__(
        self,
        *,
        img_scale: Sequence[int] = (640, 640),
        center_ratio_range: Sequence[float] = (0.5, 1.5),
        min_bbox_size: float = 0,
        bbox_clip_border: bool = True,
        skip_filter: bool = True,
        pad_val: float = 114,
        prob: float = 1.0,
    ) -> None:
        self.img_scale = size_hw(img_scale, "Mosaic.img_scale")
        self.center_ratio_range = interval(center_ratio_range, "Mosaic.center_ratio_range")
        self.min_bbox_size = min_bbox_size
        self.bbox_clip_border = bbox_clip_border
        self.skip_filter = skip_filter
        self.pad_val = pad_val
        self.prob = probability(prob, "Mosaic.prob")

    def partners(self, pool: Pool, rng: np.random.Generator) -> list[int]:
        """Three images."""
        return [int(i) for i in rng.integers(len(pool), size=3)]

    def mix(self, sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
        """Draw whether and around which centre."""
        if rng.random() > self.prob:
            return sample
        height, width = self.img_scale
        centre_x = int(rng.uniform(*self.center_ratio_range) * width)
        centre_y = int(rng.uniform(*self.center_ratio_range) * height)
        return self.compose(sample, others, (centre_x, centre_y))

    def compose(self, sample: Sample, others: Sequence[Sample], centre_xy: tuple[int, int]) -> Sample:
        """Put the sample above left of the centre, the others above right, below left and below right."""
        canvas_hw = (2 * self.img_scale[0], 2 * self.img_scale[1])
        image = np.full((*canvas_hw, 3), self.pad_val, sample.pixels().dtype)
        parts = [_fitted(part, self.img_scale) for part in (sample, *others)]
        for i, part in enumerate(parts):
            place, offset = quarter(i, centre_xy, part.input_hw, canvas_hw)
            _paste(image, part.pixels(), place, offset)
            _move(part, place, offset, canvas_hw)
        sample.replace_image(image)
        join_objects(sample, parts)
        if sample.boxes is not None:
            if self.bbox_clip_border:
                sample.boxes = clip_boxes(sample.boxes, canvas_hw)
            kept = touches(sample.boxes, canvas_hw)
            if not self.skip_filter:
                kept &= np.all(sample.boxes[:, 2:] - sample.boxes[:, :2] > self.min_bbox_size, axis=1)
            sample.keep(kept)
        if sample.ignore_boxes is not None:
            boxes = (
                clip_boxes(sample.ignore_boxes, canvas_hw) if self.bbox_clip_border else sample.ignore_boxes
            )
            sample.ignore_boxes = boxes[touches(boxes, canvas_hw)]
        return sample


def quarter(
    position: int, centre_xy: tuple[int, int], part_hw: tuple[int, int], canvas_hw: tuple[int, int]
) -> tuple[Rectangle, tuple[int, int]]:
    """Where a part of a mosaic goes.

    Args:
        position: 0 above left of the centre, 1 above right, 2 below left, 3 below right.
        centre_xy: the corner that all parts share.
        part_hw: (height, width) of the part.
        canvas_hw: (height, width) of the canvas, which cuts what sticks out.

    Returns:
        place: rectangle of the canvas that the part fills.
        offset: (x, y) of the place's upper left corner inside the part.
    """
    (x, y), (h, w) = centre_xy, part_hw
    left, right = (max(x - w, 0), x) if position % 2 == 0 else (x, min(x + w, canvas_hw[1]))
    top, bottom = (max(y - h, 0), y) if position < 2 else (y, min(y + h, canvas_hw[0]))
    offset = (w - (right - left) if position % 2 == 0 else 0, h - (bottom - top) if position < 2 else 0)
    return (left, top, right, bottom), offset


def _fitted(sample: Sample, scale_hw: tuple[int, int]) -> Sample:
    """A copy scaled by one factor to fit into ``scale_hw``."""
    out = sample.copy()
    image = sample.pixels()
    ratio = min(scale_hw[0] / image.shape[0], scale_hw[1] / image.shape[1])
    width, height = int(image.shape[1] * ratio), int(image.shape[0] * ratio)
    out.replace_image(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    out.boxes = None if sample.boxes is None else sample.boxes * np.float32(ratio)
    out.ignore_boxes = None if sample.ignore_boxes is None else sample.ignore_boxes * np.float32(ratio)
    out.masks = None if sample.masks is None else resize_masks(sample.masks, width, height)
    if sample.semantic is not None:
        out.semantic = cv2.resize(sample.semantic, (width, height), interpolation=cv2.INTER_NEAREST)
    return out


def _paste(canvas: Array, part: Array, place: Rectangle, offset: tuple[int, int]) -> None:
    """Write the part of an (h, w, ...) array that fits to its place on the canvas."""
    left, top, right, bottom = place
    x, y = offset
    canvas[top:bottom, left:right] = part[y : y + bottom - top, x : x + right - left]


def _move(part: Sample, place: Rectangle, offset: tuple[int, int], canvas_hw: tuple[int, int]) -> None:
    """Objects, masks and class map of a part in pixels of the canvas."""
    shift = np.array([place[0] - offset[0], place[1] - offset[1]] * 2, np.float32)
    part.boxes = None if part.boxes is None else part.boxes + shift
    part.ignore_boxes = None if part.ignore_boxes is None else part.ignore_boxes + shift
    if part.masks is not None:
        masks = np.zeros((len(part.masks), *canvas_hw), np.uint8)
        for canvas, mask in zip(masks, part.masks, strict=True):
            _paste(canvas, mask, place, offset)
        part.masks = masks
    if part.semantic is not None:
        semantic = np.full(canvas_hw, 255, np.uint8)
        _paste(semantic, part.semantic, place, offset)
        part.semantic = semantic
