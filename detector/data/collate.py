"""Samples to batches, in a form that crosses a process border cheaply.

Every tensor that a worker sends costs a file descriptor and a round trip, so a batch travels as two tensors
(images and
all masks together) and small arrays, and is taken apart on arrival.

Shapes: B images, G objects of one image, H x W the largest padded size of the batch.
Boxes: xyxy float32 pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.data.datasets.source import View
from detector.errors import DetectorError
from detector.structures.samples import Batch, ImageMeta, Targets


@dataclass(frozen=True)
class PackedBoxes:
    """Boxes of B images.

    Attributes:
        counts: (B,) boxes per image.
        boxes: joined (sum n, 4).
    """

    counts: list[int]
    boxes: NDArray[Any]

    def unpack(self) -> list[Tensor]:
        """One (n, 4) tensor per image."""
        return list(torch.split(torch.from_numpy(self.boxes), self.counts))


def pack_boxes(boxes: Sequence[Tensor | None]) -> PackedBoxes | None:
    """(n, 4) boxes of each image, joined; None when an image has none to give."""
    found = [b.numpy() for b in boxes if b is not None]
    if not found or len(found) < len(boxes):
        return None
    return PackedBoxes(counts=[len(b) for b in found], boxes=np.concatenate(found))


@dataclass(frozen=True)
class PackedTargets:
    """Targets of a batch, joined over the images.

    Attributes:
        counts: (B,) objects per image.
        ignore_counts: (B,) ignored boxes per image.
        boxes, labels, ignore_boxes: joined (sum G, 4), (sum G,), (sum K, 4).
        masks: (sum G, H, W) uint8, or None.
        semantic: (B, h, w) int64 padded with 255, or None.
        proposals: of the B images, or None.
    """

    counts: list[int]
    ignore_counts: list[int]
    boxes: NDArray[Any]
    labels: NDArray[Any]
    ignore_boxes: NDArray[Any]
    masks: Tensor | None
    semantic: Tensor | None
    proposals: PackedBoxes | None = None

    def unpack(self) -> list[Targets]:
        """One Targets per image; masks are views of the joined ones."""
        boxes = torch.split(torch.from_numpy(self.boxes), self.counts)
        labels = torch.split(torch.from_numpy(self.labels), self.counts)
        ignore = torch.split(torch.from_numpy(self.ignore_boxes), self.ignore_counts)
        masks = None if self.masks is None else torch.split(self.masks, self.counts)
        proposals = None if self.proposals is None else self.proposals.unpack()
        return [
            Targets(
                boxes=boxes[i],
                labels=labels[i],
                ignore_boxes=ignore[i],
                masks=None if masks is None else masks[i],
                semantic=None if self.semantic is None else self.semantic[i],
                proposals=None if proposals is None else proposals[i],
            )
            for i in range(len(self.counts))
        ]


@dataclass(frozen=True)
class Packed:
    """What a worker sends for one batch.

    Attributes:
        images: one (B, 3, H, W) tensor per view; one view in training, none when every image was left out.
        metas: B metas per view.
        targets: in training.
        proposals: stored proposals per view, in testing.
        skipped: unreadable files passed over.
        error: what stopped the worker; raised on arrival, as one paragraph.
    """

    images: list[Tensor]
    metas: list[list[ImageMeta]]
    targets: PackedTargets | None = None
    proposals: tuple[PackedBoxes | None, ...] = ()
    skipped: tuple[str, ...] = ()
    error: DetectorError | None = None

    def pin_memory(self) -> Packed:
        """Copy whose large tensors lie in page-locked memory; the loader calls it when asked to."""
        targets = self.targets
        if targets is not None and targets.masks is not None:
            targets = replace(targets, masks=targets.masks.pin_memory())
        return replace(self, images=[image.pin_memory() for image in self.images], targets=targets)

    def batches(self) -> list[Batch]:
        """One Batch per view."""
        targets = None if self.targets is None else self.targets.unpack()
        packed = self.proposals or (None,) * len(self.images)
        stored = [None if boxes is None else boxes.unpack() for boxes in packed]
        if targets is not None:
            found = [t.proposals for t in targets if t.proposals is not None]
            stored = [found if found else None]
        return [
            Batch(images=images, metas=metas, targets=targets, proposals=proposals)
            for images, metas, proposals in zip(self.images, self.metas, stored, strict=True)
        ]


def stack(tensors: Sequence[Tensor], fill: float = 0) -> Tensor:
    """(..., h, w) tensors of different sizes as (B, ..., H, W), filled right and below."""
    height, width = max(t.shape[-2] for t in tensors), max(t.shape[-1] for t in tensors)
    out = tensors[0].new_empty((len(tensors), *tensors[0].shape[:-2], height, width))
    for i, tensor in enumerate(tensors):
        h, w = tensor.shape[-2:]
        out[i, ..., :h, :w] = tensor
        out[i, ..., h:, :] = fill
        out[i, ..., :h, w:] = fill
    return out


def join_masks(masks: Sequence[Tensor], height: int, width: int) -> Tensor:
    """(G, h, w) masks of each image as one (sum G, height, width) tensor."""
    if all(m.shape[1:] == (height, width) for m in masks):
        return torch.cat(list(masks))
    out = torch.zeros((sum(len(m) for m in masks), height, width), dtype=torch.uint8)
    begin = 0
    for mask in masks:
        out[begin : begin + len(mask), : mask.shape[1], : mask.shape[2]] = mask
        begin += len(mask)
    return out


def pack_training(samples: Sequence[tuple[Tensor, Targets, ImageMeta]]) -> Packed:
    """Training samples as one packed batch."""
    images = stack([image for image, _, _ in samples])
    targets = [t for _, t, _ in samples]
    masks = [t.masks for t in targets if t.masks is not None]
    maps = [t.semantic for t in targets if t.semantic is not None]
    packed = PackedTargets(
        counts=[len(t.boxes) for t in targets],
        ignore_counts=[len(t.ignore_boxes) for t in targets],
        boxes=np.concatenate([t.boxes.numpy() for t in targets]),
        labels=np.concatenate([t.labels.numpy() for t in targets]),
        ignore_boxes=np.concatenate([t.ignore_boxes.numpy() for t in targets]),
        masks=join_masks(masks, images.shape[2], images.shape[3]) if len(masks) == len(targets) else None,
        semantic=stack(maps, fill=255) if len(maps) == len(targets) else None,
        proposals=pack_boxes([t.proposals for t in targets]),
    )
    return Packed(images=[images], metas=[[meta for _, _, meta in samples]], targets=packed)


def pack_views(samples: Sequence[list[View]]) -> Packed:
    """Test images, equally many views each, as one packed batch; images without views are left out."""
    present = [views for views in samples if views]
    views = list(zip(*present, strict=True))
    return Packed(
        images=[stack([view[0] for view in images]) for images in views],
        metas=[[view[1] for view in images] for images in views],
        proposals=tuple(
            pack_boxes([view[2] if len(view) == 3 else None for view in images]) for images in views
        ),
    )


def collate_views(samples: Sequence[list[View]]) -> list[Batch]:
    """Test images as one Batch per view, for inference without a loader."""
    return pack_views(samples).batches()
