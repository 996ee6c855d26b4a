"""Masks as run lengths, polygons and bitmaps.

The house form of a mask that travels is ``Rle`` (COCO run-length encoding: column-major runs, compressed
bytes). A bitmap is uint8 0/1.

Shapes: N masks of one image, H x W its size in pixels.
Boxes: xywh in absolute pixels of the mask, tight around the set pixels (a 1-pixel mask is 1 wide); zeros for
an empty mask.
Source: the COCO API (pycocotools.mask); polygon rules checked against MMDetection's ``LoadAnnotations``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from detector.errors import DatasetError
from detector.structures.samples import Rle

Bitmap = NDArray[np.uint8]
logger = logging.getLogger(__name__)

# pycocotools 2.0.11 keeps the number of masks in a uint8 there, which NumPy 2 refuses from 256 on
_AREAS_AT_ONCE = 255
_CHUNK_BYTES = 64 * 2**20  # encoding copies to column-major; this bounds the copy


def encode(mask: NDArray[Any] | Tensor) -> Rle:
    """Run-length encoding of one (H, W) mask; any non-zero value is set."""
    return encode_batch(mask[None])[0]


def encode_batch(masks: NDArray[Any] | Tensor) -> list[Rle]:
    """Run-length encodings of (N, H, W) masks; N may be 0. Any non-zero value is set."""
    array = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    if array.ndim != 3:
        raise DatasetError(f"masks: found shape {array.shape}, expected (N, H, W)")
    step = max(1, _CHUNK_BYTES // max(1, array.shape[1] * array.shape[2]))
    encoded: list[Rle] = []
    for start in range(0, len(array), step):
        part = array[start : start + step]
        binary = part if part.dtype == np.uint8 and part.max(initial=0) <= 1 else (part != 0).astype(np.uint8)
        encoded.extend(coco_mask.encode(np.asfortranarray(binary.transpose(1, 2, 0))))
    return encoded


def decode(rle: Rle) -> Bitmap:
    """(H, W) uint8 bitmap of 0 and 1."""
    bitmap: Bitmap = coco_mask.decode(rle)
    return bitmap


def areas(rles: Sequence[Rle]) -> NDArray[np.int64]:
    """(N,) numbers of set pixels."""
    if not rles:
        return np.zeros(0, np.int64)
    parts = [list(rles[i : i + _AREAS_AT_ONCE]) for i in range(0, len(rles), _AREAS_AT_ONCE)]
    return np.concatenate([np.asarray(coco_mask.area(part), np.int64) for part in parts])


def boxes_xywh(rles: Sequence[Rle]) -> NDArray[np.float64]:
    """(N, 4) tight boxes; an empty mask has zeros."""
    if not rles:
        return np.zeros((0, 4), np.float64)
    return np.asarray(coco_mask.toBbox(list(rles)), np.float64)


def merge(rles: Sequence[Rle], *, intersect: bool = False) -> Rle:
    """Union (or intersection) of at least one mask of the same size."""
    if not rles:
        raise DatasetError("merge: found no mask, expected at least one")
    merged: Rle = coco_mask.merge(list(rles), intersect=intersect)
    return merged


def iou(
    detected: Sequence[Rle], truth: Sequence[Rle], *, crowd: Sequence[bool] | None = None
) -> NDArray[np.float64]:
    """(len(detected), len(truth)) overlaps; a crowd's intersection is divided by the detection's area."""
    if not detected or not truth:
        return np.zeros((len(detected), len(truth)), np.float64)
    flags = [0] * len(truth) if crowd is None else [int(c) for c in crowd]
    return np.asarray(coco_mask.iou(list(detected), list(truth), flags), np.float64)


def from_segmentation(segmentation: Any, image_hw: tuple[int, int], *, where: str = "segmentation") -> Rle:
    """Run-length encoding of a COCO ``segmentation`` of one object.

    Args:
        segmentation: list of polygons [x1, y1, ...] (their union; those of fewer than three
            points are left out, as in training), or a dict with ``size`` and ``counts`` as a list, text or
            bytes.
        image_hw: size of the image; polygons are cut at its border.
        where: what the message of an error calls the object.

    Raises:
        DatasetError: ``segmentation_problem`` finds something.
    """
    segmentation = whole_polygons(segmentation, where=where)
    if (wrong := segmentation_problem(segmentation, image_hw)) is not None:
        raise DatasetError(f"{where}: {wrong}")
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        if isinstance(counts, list):
            packed: Rle = coco_mask.frPyObjects({"size": list(image_hw), "counts": counts}, *image_hw)
            return packed
        return Rle(size=list(image_hw), counts=counts.encode() if isinstance(counts, str) else counts)
    merged: Rle = coco_mask.merge(coco_mask.frPyObjects([list(p) for p in segmentation], *image_hw))
    return merged


def whole_polygons(segmentation: Any, *, where: str) -> Any:
    """A segmentation without its polygons of fewer than three points, which training leaves out too.

    Run lengths, and polygons of which none would be left, are given back as they are.
    """
    if not isinstance(segmentation, list | tuple):
        return segmentation
    whole = [p for p in segmentation if not isinstance(p, list | tuple) or (len(p) >= 6 and len(p) % 2 == 0)]
    if not whole or len(whole) == len(segmentation):
        return segmentation
    dropped = len(segmentation) - len(whole)
    logger.warning(
        "%s: %d of %d polygons have fewer than three points and are left out",
        where, dropped, len(segmentation),
    )  # fmt: skip
    return whole


def to_json(rle: Rle) -> dict[str, Any]:
    """The encoding with ``counts`` as text, as a COCO json holds it."""
    counts = rle["counts"]
    text = counts.decode() if isinstance(counts, bytes) else counts
    return {"size": [int(v) for v in rle["size"]], "counts": text}


def segmentation_problem(segmentation: Any, image_hw: tuple[int, int]) -> str | None:
    """What is wrong with a COCO ``segmentation`` (polygons or any run-length form), or None."""
    if isinstance(segmentation, Mapping):
        counts = segmentation.get("counts")
        if not isinstance(counts, list):
            return problem(segmentation, image_hw)
        if list(segmentation.get("size", ())) != list(image_hw):
            return (
                f"found run lengths of size {segmentation.get('size')}, expected the image's {list(image_hw)}"
            )
        return _coverage_problem(np.asarray(counts, np.int64), image_hw)
    if not isinstance(segmentation, list | tuple) or not segmentation:
        return (
            f"found {_short(segmentation)}, expected a non-empty list of polygons or run lengths; an object "
            "without a mask cannot be used for masks: drop it, or train and evaluate boxes only"
        )
    for polygon in segmentation:
        if not isinstance(polygon, list | tuple | np.ndarray) or len(polygon) < 6 or len(polygon) % 2:
            return f"found polygon {_short(polygon)}, expected x, y pairs of at least three points"
    return None


def problem(rle: Any, image_hw: tuple[int, int]) -> str | None:
    """What is wrong with a compressed encoding for an image of this size, or None.

    Decoding trusts its input, so anything read from a file of unknown origin is checked here first.
    """
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        return f"found {_short(rle)}, expected a dict with size and counts"
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or list(size) != list(image_hw):
        return f"found run lengths of size {_short(size)}, expected the image's {list(image_hw)}"
    if not isinstance(counts, str | bytes) or (isinstance(counts, str) and not counts.isascii()):
        return f"found counts {_short(counts)}, expected a run-length string"
    runs = _runs(counts.encode() if isinstance(counts, str) else counts)
    if runs is None:
        return f"found counts {_short(counts)}, expected a run-length string"
    return _coverage_problem(runs, image_hw)


def _coverage_problem(runs: NDArray[np.int64], image_hw: tuple[int, int]) -> str | None:
    """Whether run lengths are not negative and cover the image exactly."""
    pixels = image_hw[0] * image_hw[1]
    if runs.min(initial=0) < 0 or runs.sum() != pixels:
        return f"found runs that cover {runs.sum()} pixels, expected the image's {pixels}"
    return None


def _runs(counts: bytes) -> NDArray[np.int64] | None:
    """Run lengths of a compressed string, or None if malformed.

    A character carries 5 bits and a continuation bit; from the fourth run on, the difference to the run
    before last is stored.
    """
    chars = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(chars):
        return chars
    ends = np.flatnonzero((chars & 0x20) == 0)
    if chars.min() < 0 or chars.max() > 63 or not len(ends) or ends[-1] != len(chars) - 1:
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 10:  # more bits than any image has pixels
        return None
    place = np.arange(len(chars)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((chars & 0x1F) << (5 * place), starts)
    runs -= np.where(chars[ends] & 0x10, 1 << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _short(value: object, limit: int = 60) -> str:
    """A value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
