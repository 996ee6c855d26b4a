"""From a small mask per box to run-length encodings at image size.

The masks stay on their device and only runs leave it: a piece of a mask is resampled, compared with the
threshold, and the ends of its runs are found there. No mask of the image's size is ever made.

Shapes: N masks of h x w, image of H x W; a piece covers rows x columns of the image.
Boxes: xyxy, pixels of the image, no +1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from detector.structures.samples import Rle

#: pixels that are resampled at once, some 30 bytes each: many keep a GPU busy, few stay in a CPU's cache
PIXELS_CPU, PIXELS_GPU = 2**18, 2**23


class Piece(NamedTuple):
    """A part of the image that one box covers: which mask, and its pixels [top, bottom) x [left, right)."""

    mask: int
    top: int
    bottom: int
    left: int
    right: int


def paste_masks(masks: Tensor, boxes: Tensor, image_hw: tuple[int, int], *, threshold: float) -> list[Rle]:
    """Encode N masks at image size in bounded memory.

    Args:
        masks: (N, h, w) probabilities in [0, 1].
        boxes: (N, 4) xyxy in pixels of the image.
        image_hw: size of the encoded masks.
        threshold: a pixel belongs to the mask when its value is at least this.

    Returns:
        N encodings in the order of ``masks``; a box outside the image gives an empty mask.

    Source: checked against mmdet 2.28.2 models/roi_heads/mask_heads/fcn_mask_head.py _do_paste_mask.
    """
    boxes = boxes.float()
    limit = PIXELS_GPU if masks.is_cuda else PIXELS_CPU
    runs: list[list[NDArray[np.int64]]] = [[] for _ in range(len(boxes))]
    for group in _groups(_pieces(boxes.tolist(), image_hw, limit), limit):
        rows = [piece.mask for piece in group]
        inside = _paste(masks[rows], boxes[rows], group, threshold)
        for piece, found in zip(group, _runs(inside, group, image_hw[0]), strict=True):
            runs[piece.mask].append(found)
    return [encode_runs(parts, image_hw) for parts in runs]


def encode_runs(parts: Sequence[NDArray[np.int64]], image_hw: tuple[int, int]) -> Rle:
    """Run-length encoding of set pixels.

    Args:
        parts: (K, 2) first pixel and the pixel after the last of each run, counted down the columns of the
            image; ascending. Runs may touch.
        image_hw: size of the image.
    """
    pixels = image_hw[0] * image_hw[1]
    ends = np.concatenate([np.zeros(1, np.int64), *(part.ravel() for part in parts), np.full(1, pixels)])
    counts = np.diff(ends)
    touching = np.flatnonzero(counts[2:-1:2] == 0) * 2 + 2  # runs of one column that goes on in the next
    if len(touching):
        ends = np.delete(ends, np.concatenate((touching, touching + 1)))
        counts = np.diff(ends)
    if len(counts) > 1 and counts[-1] == 0:  # the last pixel is set
        counts = counts[:-1]
    encoded: Rle = coco_mask.frPyObjects({"size": list(image_hw), "counts": counts.tolist()}, *image_hw)
    return encoded


def _pieces(boxes: Sequence[Sequence[float]], image_hw: tuple[int, int], limit: int) -> Iterator[Piece]:
    """The pixels of every box with a margin of one, in bands of columns of at most ``limit`` pixels.

    Boxes of similar area follow one another, so that few pixels are wasted when they share a grid; the bands
    of a box go from left to right.
    """
    height, width = image_hw
    covered = []
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        if not (x1 > x0 and y1 > y0 and all(map(math.isfinite, (x0, y0, x1, y1)))):
            continue
        left, top = max(math.floor(x0) - 1, 0), max(math.floor(y0) - 1, 0)
        right, bottom = min(math.ceil(x1) + 1, width), min(math.ceil(y1) + 1, height)
        if right > left and bottom > top:
            covered.append(Piece(i, top, bottom, left, right))
    for i, top, bottom, left, right in sorted(covered, key=lambda p: (p.right - p.left) * (p.bottom - p.top)):
        step = max(limit // (bottom - top), 1)
        for start in range(left, right, step):
            yield Piece(i, top, bottom, start, min(start + step, right))


def _groups(pieces: Iterator[Piece], limit: int) -> Iterator[list[Piece]]:
    """Pieces that are resampled together: as many as, all as large as the largest, have ``limit`` pixels."""
    group: list[Piece] = []
    rows = columns = 0
    for piece in pieces:
        high, wide = piece.bottom - piece.top, piece.right - piece.left
        rows, columns = max(rows, high), max(columns, wide)
        if group and (len(group) + 1) * rows * columns > limit:
            yield group
            group, rows, columns = [], high, wide
        group.append(piece)
    if group:
        yield group


def _paste(masks: Tensor, boxes: Tensor, group: Sequence[Piece], threshold: float) -> Tensor:
    """Which pixels of G pieces are set, (G, columns, rows) bool; what lies beyond a piece is not.

    Args:
        masks: (G, h, w) probabilities.
        boxes: (G, 4).
        group: the G pieces.
        threshold: least value of a set pixel.
    """
    places = torch.tensor(group, device=masks.device)
    columns, wide = _places(places[:, 3], places[:, 4], max(p.right - p.left for p in group))
    rows, high = _places(places[:, 1], places[:, 2], max(p.bottom - p.top for p in group))
    x0, y0, x1, y1 = (side[:, None] for side in boxes.unbind(dim=1))
    xs, ys = (columns + 0.5 - x0) / (x1 - x0) * 2 - 1, (rows + 0.5 - y0) / (y1 - y0) * 2 - 1
    size = (len(group), ys.shape[1], xs.shape[1])
    grid = torch.stack((xs[:, None].expand(size), ys[:, :, None].expand(size)), dim=-1)
    set_pixels = grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0] >= threshold
    if len(group) > 1:
        set_pixels &= wide[:, None] & high[:, :, None]
    return set_pixels.transpose(1, 2)


def _places(first: Tensor, after: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(G, count) float32 pixel numbers from ``first`` on, and which of them come before ``after``."""
    numbers = first[:, None] + torch.arange(count, device=first.device)
    return numbers.float(), numbers < after[:, None]


def _runs(inside: Tensor, group: Sequence[Piece], height: int) -> list[NDArray[np.int64]]:
    """Runs (K, 2) of each piece, as ``encode_runs`` takes them.

    Args:
        inside: (G, columns, rows) bool.
        group: the G pieces.
        height: of the image.
    """
    _, columns, rows = inside.shape
    # every column starts with an unset pixel, so that runs end with their column
    flat = pad(pad(inside, (1, 0)).flatten(), (0, 1))
    flips = torch.nonzero(flat[1:] != flat[:-1])[:, 0].cpu().numpy()
    starts, lengths = flips[0::2], flips[1::2] - flips[0::2]
    lines, within = np.divmod(starts, rows + 1)
    piece, column = np.divmod(lines, columns)
    places = np.asarray(group)
    first = (places[piece, 3] + column) * height + places[piece, 1] + within
    runs = np.stack((first, first + lengths), axis=1)
    return np.split(runs, np.searchsorted(piece, np.arange(1, len(group))))
