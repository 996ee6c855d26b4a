"""Several images in one: what such steps need, and MixUp.

Shapes: H x W the current image, G boxes.
Boxes: xyxy float32 pixels of the current image.
Source: Ge et al., YOLOX, arXiv:2107.08430; behaviour checked against MMDetection 2.28.2 MixUp
(difference: ignored boxes go along).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.transforms.affine import BoxLimits, touches
from detector.data.transforms.geometric import clip_boxes, flip_boxes
from detector.data.transforms.photometric import interval
from detector.data.transforms.placing import probability
from detector.data.transforms.sample import Array, Sample
from detector.errors import ConfigError


class Pool(Protocol):
    """Where the other images come from."""

    def __len__(self) -> int:
        """Number of images."""

    def has_objects(self, index: int) -> bool:
        """Whether the annotation file has an object in image ``index``."""


class Mixing(ABC):
    """A step that needs other samples; only MultiImageMixDataset can run it."""

    @abstractmethod
    def partners(self, pool: Pool, rng: np.random.Generator) -> list[int]:
        """Draw the positions of the other samples."""

    @abstractmethod
    def mix(self, sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
        """Make one sample of all."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Raise: one sample is not enough."""
        raise ConfigError(
            f"{type(self).__name__} mixes several images, and the pipeline has one. Wrap the dataset: "
            "dict(type='MultiImageMixDataset', dataset=..., pipeline=[...]) with this step in its pipeline."
        )


class MixUp(Mixing):
    """The mean of the image and another one, which is fitted, scaled, perhaps mirrored, and cut to its size.

    Args:
        img_scale: (height, width) that the other image is fitted into.
        ratio_range: (low, high) of its further scaling.
        flip_ratio: how often it is mirrored.
        pad_val: pixel value that fills it up to ``img_scale``.
        max_iters: how many images to try for one with objects.
        min_bbox_size, min_area_ratio, max_aspect_ratio: as in RandomAffine, with ``skip_filter=False``.
        bbox_clip_border: whether boxes are clipped.
        skip_filter: keep every box that touches the image.
    """

    def __init__(
        self,
        *,
        img_scale: Sequence[int] = (640, 640),
        ratio_range: Sequence[float] = (0.5, 1.5),
        flip_ratio: float = 0.5,
        pad_val: float = 114,
        max_iters: int = 15,
        min_bbox_size: float = 5,
        min_area_ratio: float = 0.2,
        max_aspect_ratio: float = 20,
        bbox_clip_border: bool = True,
        skip_filter: bool = True,
    ) -> None:
        self.img_scale = size_hw(img_scale, "MixUp.img_scale")
        self.ratio_range = interval(ratio_range, "MixUp.ratio_range")
        self.flip_ratio = probability(flip_ratio, "MixUp.flip_ratio")
        self.pad_val = pad_val
        self.max_iters = max_iters
        self.limits = BoxLimits(min_bbox_size, min_area_ratio, max_aspect_ratio)
        self.bbox_clip_border = bbox_clip_border
        self.skip_filter = skip_filter

    def partners(self, pool: Pool, rng: np.random.Generator) -> list[int]:
        """One image, if possible with objects."""
        index = 0
        for _ in range(self.max_iters):
            index = int(rng.integers(len(pool)))
            if pool.has_objects(index):
                break
        return [index]

    def mix(self, sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
        """Draw scale, mirroring and place; without objects in the other image nothing is done."""
        other = others[0]
        if other.boxes is None or not len(other.boxes):
            return sample
        if sample.masks is not None or sample.semantic is not None:
            raise ConfigError(
                "MixUp blends two images and takes boxes only. Set with_mask and with_seg to False."
            )
        factor = float(rng.uniform(*self.ratio_range))
        mirrored = bool(rng.random() < self.flip_ratio)
        layer, scale = self._layer(other.pixels(), factor, mirrored)
        target_hw = (int(sample.pixels().shape[0]), int(sample.pixels().shape[1]))
        grown = np.zeros((*np.maximum(layer.shape[:2], target_hw), 3), np.uint8)
        grown[: layer.shape[0], : layer.shape[1]] = layer
        # the last row and column that a window could begin at are never drawn, as in the reference
        y, x = (
            int(rng.integers(grown.shape[axis] - target_hw[axis]))
            if grown.shape[axis] > target_hw[axis]
            else 0
            for axis in (0, 1)
        )
        window = grown[y : y + target_hw[0], x : x + target_hw[1]]
        blended = 0.5 * sample.pixels().astype(np.float32) + 0.5 * window.astype(np.float32)
        sample.replace_image(blended.astype(np.uint8))
        layer_hw = (int(layer.shape[0]), int(layer.shape[1]))
        self._add_boxes(sample, other, scale, mirrored, layer_hw, (x, y))
        return sample

    def _layer(self, image: Array, factor: float, mirrored: bool) -> tuple[Array, float]:
        """The other image fitted, padded, scaled and mirrored, and the scale of its boxes."""
        height, width = self.img_scale
        fit = min(height / image.shape[0], width / image.shape[1])
        size = (int(image.shape[1] * fit), int(image.shape[0] * fit))
        out = np.full((height, width, 3), self.pad_val, image.dtype)
        out[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        out = cv2.resize(out, (int(width * factor), int(height * factor)), interpolation=cv2.INTER_LINEAR)
        return (out[:, ::-1] if mirrored else out), fit * factor

    def _add_boxes(
        self,
        sample: Sample,
        other: Sample,
        scale: float,
        mirrored: bool,
        layer_hw: tuple[int, int],
        corner_xy: tuple[int, int],
    ) -> None:
        def moved(boxes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            scaled = boxes * np.float32(scale)
            scaled = clip_boxes(scaled, layer_hw) if self.bbox_clip_border else scaled
            scaled = flip_boxes(scaled, layer_hw, "horizontal") if mirrored else scaled
            cut = scaled - np.array([*corner_xy, *corner_xy], np.float32)
            return scaled, clip_boxes(cut, sample.input_hw) if self.bbox_clip_border else cut

        assert other.boxes is not None, "mix returns early without boxes"
        before, after = moved(other.boxes)
        kept = np.ones(len(after), bool) if self.skip_filter else self.limits.passed(before, after)
        added = replace_objects(other, after, kept)
        join_objects(sample, [sample.copy(), added])
        if sample.boxes is not None:
            sample.keep(touches(sample.boxes, sample.input_hw))
        if other.ignore_boxes is not None and sample.ignore_boxes is not None:
            ignored = np.concatenate([sample.ignore_boxes, moved(other.ignore_boxes)[1]])
            sample.ignore_boxes = ignored[touches(ignored, sample.input_hw)]


def replace_objects(sample: Sample, boxes: NDArray[np.float32], kept: NDArray[np.bool_]) -> Sample:
    """A copy with other boxes, of which ``kept`` stay, and without ignored ones."""
    out = sample.copy()
    out.boxes, out.ignore_boxes = boxes, None
    out.keep(kept)
    return out


def size_hw(value: Sequence[int], where: str) -> tuple[int, int]:
    """(height, width) as ints, or ConfigError."""
    if not isinstance(value, Sequence) or len(value) != 2 or any(not n >= 1 for n in value):
        raise ConfigError(f"{where} is {value!r}; expected (height, width) in pixels.")
    return int(value[0]), int(value[1])


def join_objects(sample: Sample, parts: Sequence[Sample]) -> None:
    """Give the sample the objects of all parts, and the class maps laid over each other."""
    for name in ("boxes", "labels", "masks", "ignore_boxes"):
        arrays = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        setattr(sample, name, np.concatenate(arrays) if arrays else None)
    maps = [part.semantic for part in parts if part.semantic is not None]
    if maps:
        sample.semantic = np.minimum.reduce(maps)
