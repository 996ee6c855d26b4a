"""Cityscapes' instance classes in COCO format, as the converter writes them.

Source: rules checked against MMDetection 2.28.2 datasets/cityscapes.py; names and colours from Cityscapes'
label table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.data.datasets.coco import CocoDataset, sizeable
from detector.data.datasets.coco_file import CocoColumns


class CityscapesDataset(CocoDataset):
    """Eight classes; training leaves out images whose annotations are all group regions (crowds)."""

    CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    PALETTE = (
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    )

    def valid(self, columns: CocoColumns) -> NDArray[np.bool_]:
        """(m,) annotations with area, at least a pixel wide and high."""
        return sizeable(columns)

    def usable(self, columns: CocoColumns, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) images with an annotation of the wanted classes and at least one that is no crowd."""
        single: NDArray[np.bool_] = np.zeros(len(columns.sizes), bool)
        single[columns.image_rows[~columns.crowd]] = True
        return super().usable(columns, labels) & single
