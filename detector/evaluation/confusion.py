"""Which classes a detector takes for which others, and for background.

Boxes: xyxy, absolute pixels of the original image.
Source: the rules of MMDetection's tools/analysis_tools/confusion_matrix.py; not compared number by number.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.overlaps import overlaps

SCORE_THR, IOU_THR = 0.3, 0.5  # MMDetection's tool has the same defaults
BACKGROUND = "background"

Image = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def confusion_matrix(
    images: Iterable[Image], num_classes: int, *, score_thr: float = SCORE_THR, iou_thr: float = IOU_THR
) -> NDArray[np.int64]:
    """Count pairs of an object's class and a detection's class.

    As in the reference, a detection counts for every object that it overlaps enough, and one that overlaps
    none is background taken for its class; an object that no detection of its own class overlaps is missed,
    also where one of another class does.

    Args:
        images: per image the objects' boxes (G, 4) and labels (G,), without crowds and ignored ones, and the
            detections' boxes (n, 4), labels (n,) and scores (n,).
        num_classes: K.
        score_thr: lowest score of a detection that counts.
        iou_thr: overlap from which a detection and an object belong together.

    Returns:
        (K + 1, K + 1): rows are the truth, columns what was found, the last row and column the background.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for truth, truth_labels, boxes, labels, scores in images:
        kept = scores >= score_thr
        found_labels = labels[kept].astype(np.int64)
        objects = truth_labels.astype(np.int64)
        together = overlaps(boxes[kept].reshape(-1, 4), truth.reshape(-1, 4)) >= iou_thr
        detection, target = np.nonzero(together)
        np.add.at(counts, (objects[target], found_labels[detection]), 1)
        alone = found_labels[~together.any(axis=1)]
        np.add.at(counts, (np.full_like(alone, num_classes), alone), 1)
        right = together & (found_labels[:, None] == objects[None])
        missed = objects[~right.any(axis=0)]
        np.add.at(counts, (missed, np.full_like(missed, num_classes)), 1)
    return counts


def confusion_csv(counts: NDArray[Any], class_names: Sequence[str]) -> str:
    """The matrix as CSV, a column per class that was found and a line per class of the truth."""
    names = [*class_names, BACKGROUND]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["truth", *names])
    writer.writerows([name, *map(int, row)] for name, row in zip(names, counts, strict=True))
    return out.getvalue()
