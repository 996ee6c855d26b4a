"""The one thing that travels through a pipeline.

Shapes: H x W the current image, G ground-truth boxes, K ignored boxes.
Boxes: xyxy float32 pixels of the current image, no +1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from detector.errors import ConfigError
from detector.structures.samples import ImageMeta, Rle, Targets

Array: TypeAlias = NDArray[Any]
#: One object's mask: run lengths, or flat x0, y0, x1, y1, ... polygons; None where the file has none.
Segmentation: TypeAlias = Rle | list[NDArray[np.float64]] | None


def empty_boxes() -> NDArray[np.float32]:
    """A (0, 4) box array."""
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Segments:
    """The regions of one panoptic image.

    Attributes:
        path: PNG whose pixels hold segment ids as R + 256 G + 65536 B.
        ids: (S,) int64 segment ids.
        labels: (S,) int64 classes, things before stuff.
        singles: (S,) bool, regions of one countable object each, in the order of the annotations' ``boxes``.
    """

    path: str
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    singles: NDArray[np.bool_]


@dataclass(frozen=True)
class Annotations:
    """What the annotation file says about one image, in pixels of the original.

    Attributes:
        boxes: (G, 4) float32 xyxy.
        labels: (G,) int64 in [0, C).
        ignore_boxes: (K, 4) float32 xyxy of crowd or difficult objects.
        segmentations: G masks, or empty when the dataset has none.
        image_hw: (height, width) the file states, which the masks are drawn at.
        semantic_path: file of the class map, or None.
        ignore_labels: (K,) int64 classes of the ignored boxes; empty where the format has none.
        segments: of a panoptic file, else None.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore_boxes: NDArray[np.float32] = field(default_factory=empty_boxes)
    segmentations: Sequence[Segmentation] = ()
    image_hw: tuple[int, int] = (0, 0)
    semantic_path: str | None = None
    ignore_labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    segments: Segments | None = None


@dataclass
class Sample:
    """A mutable sample; every transform reads and writes these fields.

    Attributes:
        filename: path of the image, or None for an array.
        ori_filename: name as in the annotation file.
        image_id: id in the annotation file, or -1.
        annotations: raw annotations; None in testing.
        stored_proposals: (n, 4) float32 xyxy in pixels of the original, or None without a proposal file.
        image: (H, W, 3) current image, BGR until Normalize.
        boxes, labels, ignore_boxes: (G, 4), (G,), (K, 4) once loaded.
        masks: (G, H, W) uint8 0/1 once loaded.
        semantic: (H, W) class map once loaded.
        proposals: (n, 4) once loaded.
        scale: (long, short) or (width, height) that the next Resize uses; preset by MultiScaleFlipAug.
        ratio: factor that the next Resize uses instead; preset by MultiScaleFlipAug.
        flip: preset decision of the next RandomFlip; None lets it draw.
        resized: whether a Resize already ran.
        collected: the keys of Collect; empty before it.
        border: (top, bottom, left, right) place of the image inside a RandomCenterCropPad test input.
    """

    filename: str | None = None
    ori_filename: str | None = None
    image_id: int | str = -1
    annotations: Annotations | None = None
    stored_proposals: NDArray[np.float32] | None = None
    image: Array | None = None
    boxes: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    ignore_boxes: NDArray[np.float32] | None = None
    masks: NDArray[np.uint8] | None = None
    semantic: NDArray[np.uint8] | None = None
    proposals: NDArray[np.float32] | None = None
    ori_hw: tuple[int, int] = (0, 0)
    input_hw: tuple[int, int] = (0, 0)
    pad_hw: tuple[int, int] = (0, 0)
    scale_factor: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    scale: tuple[int, int] | None = None
    ratio: float | None = None
    flip: bool | None = None
    flip_direction: str | None = None
    resized: bool = False
    collected: tuple[str, ...] = ()
    border: tuple[int, int, int, int] | None = None

    def pixels(self) -> Array:
        """The image; raises ConfigError when no step loaded one."""
        if self.image is None:
            raise ConfigError("The pipeline uses an image before one is loaded. Put LoadImageFromFile first.")
        return self.image

    def replace_image(self, image: Array) -> None:
        """Take a new (H, W, 3) image whose size becomes that of the network input."""
        self.image = image
        self.input_hw = self.pad_hw = (int(image.shape[0]), int(image.shape[1]))

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Keep the objects where ``kept`` (G,) is true: boxes, labels and masks alike."""
        if self.boxes is not None:
            self.boxes = self.boxes[kept]
        if self.labels is not None:
            self.labels = self.labels[kept]
        if self.masks is not None:
            self.masks = self.masks[kept]

    def copy(self) -> Sample:
        """A copy that goes its own way; arrays are shared, as transforms replace and never write them."""
        return replace(self)

    def meta(self) -> ImageMeta:
        """What the model and the evaluation need to know about the image."""
        return ImageMeta(
            ori_hw=self.ori_hw,
            input_hw=self.input_hw,
            pad_hw=self.pad_hw,
            scale_factor=self.scale_factor,
            flip_direction=self.flip_direction,
            filename=self.filename,
            ori_filename=self.ori_filename,
            image_id=self.image_id,
            border=self.border,
        )

    def image_tensor(self) -> torch.Tensor:
        """(3, H, W) float32, contiguous."""
        # (H, W, 3) -> (3, H, W); free when Normalize laid the channels out as planes
        planes = np.ascontiguousarray(self.pixels().transpose(2, 0, 1), dtype=np.float32)
        return torch.from_numpy(planes)

    def proposal_tensor(self) -> torch.Tensor | None:
        """(n, 4) float32 proposals, if loaded and collected."""
        if self.proposals is None or (self.collected and "proposals" not in self.collected):
            return None
        return torch.from_numpy(np.ascontiguousarray(self.proposals, np.float32))

    def targets(self) -> Targets:
        """Ground truth as tensors; what Collect did not name is left out."""
        boxes = empty_boxes() if self.boxes is None else self.boxes
        labels = np.zeros(len(boxes), np.int64) if self.labels is None else self.labels
        ignore = empty_boxes() if self.ignore_boxes is None else self.ignore_boxes
        with_masks = self.masks is not None and (not self.collected or "gt_masks" in self.collected)
        with_semantic = self.semantic is not None and (
            not self.collected or "gt_semantic_seg" in self.collected
        )
        return Targets(
            boxes=torch.from_numpy(np.ascontiguousarray(boxes, np.float32)),
            labels=torch.from_numpy(np.ascontiguousarray(labels, np.int64)),
            ignore_boxes=torch.from_numpy(np.ascontiguousarray(ignore, np.float32)),
            masks=torch.from_numpy(np.ascontiguousarray(self.masks)) if with_masks else None,
            semantic=torch.from_numpy(np.asarray(self.semantic, np.int64)) if with_semantic else None,
            proposals=self.proposal_tensor(),
        )


class Transform(Protocol):
    """A step: a sample and the only source of randomness in, the sample, views of it, or None (drop) out."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample | list[Sample] | None:
        """Apply the step."""
