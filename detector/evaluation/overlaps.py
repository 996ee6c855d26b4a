"""Overlap of boxes in the arithmetic of MMDetection's own metrics (VOC's AP, proposal recall).

Boxes: xyxy, absolute pixels. Legacy coordinates count pixels: a box from 3 to 5 is 3 wide (+1), as VOC's
development kit does.
Source: checked against MMDetection's ``bbox_overlaps`` (core/evaluation): float32 throughout, so
that overlaps at a threshold fall on the same side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]


def overlaps(a: NDArray[Any], b: NDArray[Any], *, legacy: bool = False) -> Floats32:
    """(len(a), len(b)) intersection over union in [0, 1]; either may be empty.

    Args:
        a: (n, >= 4) boxes; further columns are not read.
        b: (m, >= 4) boxes.
        legacy: whether a box is one pixel wider and higher than its corners say.
    """
    first, second = a[:, :4].astype(np.float32), b[:, :4].astype(np.float32)
    extra = np.float32(legacy)
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    sides = np.maximum(np.minimum(first[:, None, 2:], second[None, :, 2:]) - corner + extra, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = areas(first, legacy=legacy)[:, None] + areas(second, legacy=legacy)[None] - shared
    return np.asarray(shared / np.maximum(union, np.float32(1e-6)), np.float32)


def areas(boxes: NDArray[Any], *, legacy: bool = False) -> Floats32:
    """(n,) areas in square pixels."""
    found = boxes[:, :4].astype(np.float32)
    extra = np.float32(legacy)
    return np.asarray((found[:, 2] - found[:, 0] + extra) * (found[:, 3] - found[:, 1] + extra), np.float32)
