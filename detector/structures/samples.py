"""What travels between the data, the models and the engine.

Shapes: B images, G ground-truth boxes of one image, K ignored boxes, N detections of one image, H x W the
padded network input.
Boxes: xyxy, absolute pixels, x right, y down, no +1; frame named per field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

import torch
from torch import Tensor


class Rle(TypedDict):
    """COCO run-length encoding of one mask: ``size`` is [height, width], ``counts`` compressed bytes."""

    size: list[int]
    counts: bytes


@dataclass(frozen=True)
class ImageMeta:
    """Where a network input came from.

    Attributes:
        filename: path of the image file, or None for an array.
        image_id: id in the annotation file, or -1.
        ori_hw: (height, width) of the original image.
        input_hw: (height, width) of the resized image inside the padded input.
        pad_hw: (height, width) after the pipeline's own padding, before batching.
        scale_factor: (x, y, x, y) factors that took original boxes to the input.
        flip_direction: None, 'horizontal', 'vertical' or 'diagonal'.
        ori_filename: file name as written in the annotation file.
        border: (top, bottom, left, right) place of the image in the input where it is padded on all sides.
    """

    ori_hw: tuple[int, int]
    input_hw: tuple[int, int]
    pad_hw: tuple[int, int]
    scale_factor: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    flip_direction: str | None = None
    filename: str | None = None
    ori_filename: str | None = None
    image_id: int | str = -1
    border: tuple[int, int, int, int] | None = None


@dataclass
class Targets:
    """Ground truth of one image, boxes in pixels of the network input.

    Attributes:
        boxes: (G, 4) float32 xyxy; G may be 0.
        labels: (G,) int64 in [0, C).
        ignore_boxes: (K, 4) float32 xyxy of crowd or difficult objects.
        masks: (G, H, W) uint8 0/1 at the padded input size, or None when the pipeline loads no masks.
        semantic: (h, w) int64 class map, or None.
        proposals: (n, 4) float32 xyxy stored regions, or None when the pipeline loads none.
    """

    boxes: Tensor
    labels: Tensor
    ignore_boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    masks: Tensor | None = None
    semantic: Tensor | None = None
    proposals: Tensor | None = None

    def to(self, device: torch.device | str) -> Targets:
        """Copy with every tensor on ``device``."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass
class Detections:
    """Predictions of one image, boxes in pixels of the original image unless said otherwise.

    Attributes:
        boxes: (N, 4) float32 xyxy.
        scores: (N,) float32 in [0, 1], descending within the reference's order.
        labels: (N,) int64 in [0, C).
        masks: N run-length encodings at the original size, or None for box-only models.
        mask_scores: (N,) float32 scores of the masks where a model scores them apart from the boxes, else
            None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: list[Rle] | None = None
    mask_scores: Tensor | None = None

    def __len__(self) -> int:
        """Number of detections."""
        return int(self.boxes.shape[0])

    def cpu(self) -> Detections:
        """Copy with every tensor in host memory."""
        mask_scores = None if self.mask_scores is None else self.mask_scores.cpu()
        return replace(
            self,
            boxes=self.boxes.cpu(),
            scores=self.scores.cpu(),
            labels=self.labels.cpu(),
            mask_scores=mask_scores,
        )


@dataclass
class Batch:
    """One step's input.

    Attributes:
        images: (B, 3, H, W) float32, normalised, zero-padded right and below to the largest image.
        metas: B image metas.
        targets: B targets in training, None in testing.
        proposals: B tensors (n, 4) float32 xyxy of stored regions in pixels of the network input, or None.
    """

    images: Tensor
    metas: Sequence[ImageMeta]
    targets: list[Targets] | None = None
    proposals: list[Tensor] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Copy with every tensor on ``device``."""
        targets = None if self.targets is None else [t.to(device) for t in self.targets]
        proposals = None if self.proposals is None else [p.to(device) for p in self.proposals]
        images = self.images.to(device, non_blocking=True)
        return replace(self, images=images, targets=targets, proposals=proposals)
