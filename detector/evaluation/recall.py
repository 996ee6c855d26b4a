"""Recall of class-free proposals without the COCO protocol (MMDetection's ``proposal_fast``).

Shapes: G objects and N proposals of one image.
Boxes: xyxy, absolute pixels.
Source: checked against MMDetection's ``eval_recalls`` (core/evaluation/recall.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.overlaps import overlaps

Floats = NDArray[np.float64]


def proposal_recalls(
    truth: Sequence[NDArray[Any]],
    proposals: Sequence[NDArray[Any]],
    *,
    proposal_nums: Sequence[int] = (100, 300, 1000),
    iou_thrs: Sequence[float] = (0.5,),
    legacy: bool = False,
) -> Floats:
    """Share of the objects that the best proposals of their image cover, each proposal used once.

    Args:
        truth: (G, 4) boxes per image.
        proposals: (N, 5) boxes with scores per image, or (N, 4) already in order of preference.
        proposal_nums: how many proposals of an image count.
        iou_thrs: overlap from which an object counts as covered.
        legacy: whether a box is one pixel wider and higher than its corners say (VOC).

    Returns:
        (len(proposal_nums), len(iou_thrs)) recalls in [0, 1]; zeros where there is no object.
    """
    total = sum(len(boxes) for boxes in truth)
    thresholds = np.asarray(iou_thrs, np.float64)
    recalls = np.zeros((len(proposal_nums), len(thresholds)))
    for boxes, found in zip(truth, proposals, strict=True):
        ordered = found[np.argsort(found[:, 4])[::-1]] if found.shape[-1] == 5 else found
        shares = overlaps(boxes, ordered, legacy=legacy).astype(np.float64)
        for row, number in enumerate(proposal_nums):
            covered = _best_pairs(shares[:, :number])
            recalls[row] += (covered[:, None] >= thresholds).sum(axis=0)
    return recalls / max(1, total)


def _best_pairs(shares: Floats) -> Floats:
    """(G,) overlap of each object with its proposal, greedily by overlap; -1 when none is left."""
    rest = shares.copy()
    best = np.full(len(rest), -1.0)
    for _ in range(min(rest.shape)):
        obj, proposal = np.unravel_index(rest.argmax(), rest.shape)
        best[obj] = rest[obj, proposal]
        rest[obj, :] = -1
        rest[:, proposal] = -1
    return best
