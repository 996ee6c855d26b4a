"""Annotations as a handful of arrays, so that worker processes share them without copying.

A Python object is written to whenever it is looked at (its reference count), so a forked worker soon owns a
copy of
every list and dict it reads. An array has one count for all its content.

Shapes: n images, m kept annotations, G boxes of one image.
Boxes: xyxy float32 pixels of the original image.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from numpy.typing import NDArray

from detector.data.transforms.sample import Segmentation

NONE, POLYGON, RLE = 0, 1, 2


class Strings:
    """Immutable texts in one byte array.

    Args:
        texts: what to store.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode() for text in texts]
        self.content = np.frombuffer(b"".join(encoded), np.uint8)
        self.offsets = np.concatenate([[0], np.cumsum([len(e) for e in encoded], dtype=np.int64)]).astype(
            np.int64
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        return bytes(self.content[self.offsets[i] : self.offsets[i + 1]]).decode()


class Segmentations:
    """Masks of m annotations: run lengths as bytes, polygons as flat coordinates.

    Args:
        found: COCO's ``segmentation`` values in order: polygons, compressed or uncompressed run lengths, or
        None.

    Attributes:
        dropped_parts: polygons left out because they have fewer than three points or a half point.
    """

    def __init__(self, found: Sequence[Any]) -> None:
        kinds, sizes = np.zeros(len(found), np.uint8), np.zeros((len(found), 2), np.int32)
        counts, coordinates = bytearray(), array("d")
        rle_ends, part_ends, part_counts = array("q"), array("q"), array("q")
        self.dropped_parts = 0
        for i, value in enumerate(found):
            parts = 0
            if isinstance(value, list):
                kinds[i] = POLYGON
                for part in value:
                    if len(part) < 6 or len(part) % 2:
                        self.dropped_parts += 1
                        continue
                    coordinates.extend(part)
                    part_ends.append(len(coordinates))
                    parts += 1
            elif isinstance(value, dict):
                kinds[i], sizes[i] = RLE, value["size"]
                counts += _compressed(value)
            rle_ends.append(len(counts))
            part_counts.append(parts)
        self.kinds, self.sizes = kinds, sizes
        self.counts = np.frombuffer(bytes(counts), np.uint8)
        self.coordinates = np.array(coordinates, np.float64)
        self.rle_ends = _with_zero(rle_ends)
        self.part_ends = _with_zero(part_ends)
        self.first_part = np.concatenate([[0], np.cumsum(np.array(part_counts, np.int64))])

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, i: int) -> Segmentation:
        if self.kinds[i] == NONE:
            return None
        if self.kinds[i] == RLE:
            content = self.counts[self.rle_ends[i] : self.rle_ends[i + 1]].tobytes()
            return {"size": [int(self.sizes[i, 0]), int(self.sizes[i, 1])], "counts": content}
        ends = self.part_ends
        parts = range(int(self.first_part[i]), int(self.first_part[i + 1]))
        return [self.coordinates[ends[p] : ends[p + 1]] for p in parts]


def _with_zero(ends: array) -> NDArray[np.int64]:  # type: ignore[type-arg]
    return np.concatenate([np.zeros(1, np.int64), np.array(ends, np.int64)])


def _compressed(rle: dict[str, Any]) -> bytes:
    """The run lengths in COCO's compressed text."""
    counts = rle["counts"]
    if isinstance(counts, list):
        height, width = rle["size"]
        counts = coco_mask.frPyObjects(rle, height, width)["counts"]
    return counts.encode() if isinstance(counts, str) else bytes(counts)


def return_freed_memory() -> None:
    """Give what the allocator keeps of freed objects back to the system, where its library can (glibc).

    A parsed annotation file of COCO's size leaves 200 MiB behind otherwise.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@dataclass(frozen=True)
class Index:
    """A data set's images and annotations.

    Attributes:
        image_ids: (n,) int64, or texts.
        file_names: n names relative to img_prefix.
        sizes: (n, 2) int32 height, width.
        offsets: (n + 1,) int64 into the annotation rows; rows of one image lie together in file order.
        boxes: (m, 4) float32 xyxy.
        labels: (m,) int64 in [0, C).
        ignored: (m,) bool, crowd or difficult objects.
        segmentations: m masks, or None when no step needs them.
        positions: (n,) int64 place of each image in the file's list; None means all, in order.
        file_images: number of images in the file; None means n.
    """

    image_ids: NDArray[np.int64] | Strings
    file_names: Strings
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    segmentations: Segmentations | None
    positions: NDArray[np.int64] | None = None
    file_images: int | None = None

    def image_id(self, i: int) -> int | str:
        """The id as the file has it."""
        value = self.image_ids[i]
        return value if isinstance(value, str) else int(value)
