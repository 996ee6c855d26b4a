"""COCO-format files, and COCO's own 80 classes.

Shapes: n images, m annotations.
Boxes: xywh float64 in the file, xyxy float32 in the index, pixels of the original image.
Source: rules checked against MMDetection 2.28.2 datasets/coco.py; class names and colours are COCO's own
tables.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.collector import collector_paused
from detector.data.datasets.base import MIN_SIDE, DetectionDataset
from detector.data.datasets.coco_file import (
    CocoColumns,
    entry_value,
    map_classes,
    read_coco,
)
from detector.data.datasets.index import Index, Segmentations, Strings, return_freed_memory
from detector.data.datasets.names import COCO_CLASSES, COCO_PALETTE
from detector.errors import DatasetError

log = logging.getLogger(__name__)


class CocoDataset(DetectionDataset):
    """A COCO-format annotation file with classes mapped by name.

    Differences from MMDetection: label i is the i-th class of the config whatever the order of the file's
    categories,
    and a class that the file does not have is an error.
    """

    CLASSES = COCO_CLASSES
    PALETTE = COCO_PALETTE

    def read_index(self) -> tuple[Index, tuple[int, ...]]:
        """Read the file and keep what counts."""
        with collector_paused():
            index, cat_ids = self._read()
        return_freed_memory()
        log.info(
            "%s: %d images, %d objects, %d classes",
            self.ann_file,
            len(index.file_names),
            len(index.labels),
            len(cat_ids),
        )
        return index, cat_ids

    def _read(self) -> tuple[Index, tuple[int, ...]]:
        columns = self.read_columns()
        self.class_names = self.class_names or self.default_classes(columns)
        cat_ids = map_classes(self.ann_file, columns.categories, self.class_names, given=self.classes_given)
        labels = labels_of(columns, cat_ids)
        return self.make_index(columns, labels, self._images(columns, labels)), cat_ids

    def read_columns(self) -> CocoColumns:
        """Read and check the file."""
        return read_coco(self.ann_file, need_annotations=not self.test_mode, file_name=self.file_name)

    def file_name(self, image: dict[str, Any]) -> str:
        """The file name of an entry of 'images'."""
        return str(entry_value(self.ann_file, image, "images", "file_name"))

    def default_classes(self, columns: CocoColumns) -> tuple[str, ...]:
        """Classes where the config names none."""
        return self.CLASSES

    def valid(self, columns: CocoColumns) -> NDArray[np.bool_]:
        """(m,) which annotations count: with area, at least a pixel wide and high, and touching the image."""
        x, y, w, h = columns.boxes_xywh.T
        height, width = columns.sizes[columns.image_rows].T
        inside_w = np.maximum(0, np.minimum(x + w, width) - np.maximum(x, 0))
        inside_h = np.maximum(0, np.minimum(y + h, height) - np.maximum(y, 0))
        kept: NDArray[np.bool_] = sizeable(columns) & (inside_w * inside_h > 0)
        return kept

    def usable(self, columns: CocoColumns, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) which images have an annotation of the wanted classes, crowds included."""
        wanted: NDArray[np.bool_] = np.zeros(len(columns.sizes), bool)
        wanted[columns.image_rows[labels >= 0]] = True
        return wanted

    def make_index(self, columns: CocoColumns, labels: NDArray[np.int64], images: NDArray[np.int64]) -> Index:
        """The images at these positions and their valid annotations of known classes."""
        return make_index(columns, labels, self.valid(columns), images, with_masks=self._needs_masks())

    def _needs_masks(self) -> bool:
        return self.test_mode or self.pipeline.loads_masks

    def _images(self, columns: CocoColumns, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the images that count: all in testing."""
        if self.test_mode:
            return np.arange(len(columns.sizes), dtype=np.int64)
        large = columns.sizes.min(axis=1) >= MIN_SIDE
        wanted = self.usable(columns, labels) if self.filter_empty_gt else np.ones(len(large), bool)
        images: NDArray[np.int64] = np.flatnonzero(large & wanted)
        if not len(images):
            raise DatasetError(
                f"{self.ann_file}: no image is left to train on. Of {len(large)}, {int((~large).sum())} "
                "have a side below "
                f"{MIN_SIDE} pixels and {int((~wanted).sum())} have no usable object of the classes "
                f"{', '.join(self.class_names[:8])}{', ...' if len(self.class_names) > 8 else ''}. "
                "Check the annotations, or set filter_empty_gt=False to train on images without objects."
            )
        return images


def labels_of(columns: CocoColumns, cat_ids: tuple[int, ...]) -> NDArray[np.int64]:
    """(m,) label of each annotation, -1 where its category is not among the classes."""
    order = np.argsort(np.array(cat_ids, np.int64))
    ordered = np.array(cat_ids, np.int64)[order]
    slot = np.minimum(np.searchsorted(ordered, columns.category_ids), len(ordered) - 1)
    labels: NDArray[np.int64] = np.where(ordered[slot] == columns.category_ids, order[slot], -1)
    return labels


def sizeable(columns: CocoColumns) -> NDArray[np.bool_]:
    """(m,) annotations with area > 0, width and height >= 1 and without COCO's ignore flag."""
    w, h = columns.boxes_xywh[:, 2], columns.boxes_xywh[:, 3]
    kept: NDArray[np.bool_] = (columns.areas > 0) & (w >= 1) & (h >= 1) & ~columns.ignore
    return kept


def make_index(
    columns: CocoColumns,
    labels: NDArray[np.int64],
    valid: NDArray[np.bool_],
    images: NDArray[np.int64],
    *,
    with_masks: bool,
) -> Index:
    """Keep the given images and their valid annotations of known classes, grouped by image in file order.

    Args:
        columns: the file.
        labels: (m,) labels, -1 for unwanted classes.
        valid: (m,) which annotations count.
        images: positions of the images to keep.
        with_masks: whether to keep segmentations.
    """
    position = np.full(len(columns.sizes), -1, np.int64)
    position[images] = np.arange(len(images))
    place = position[columns.image_rows]
    rows = ordered_rows(columns, valid & (labels >= 0), images)
    boxes = columns.boxes_xywh[rows].copy()
    boxes[:, 2:] += boxes[:, :2]
    found = Segmentations([columns.segmentations[int(row)] for row in rows]) if with_masks else None
    if found is not None and found.dropped_parts:
        log.warning("%d polygons with fewer than three points are left out", found.dropped_parts)
    ids = columns.image_ids
    return Index(
        image_ids=Strings(ids[int(i)] for i in images) if isinstance(ids, Strings) else ids[images],
        file_names=Strings(columns.file_names[int(i)] for i in images),
        sizes=columns.sizes[images],
        offsets=np.searchsorted(place[rows], np.arange(len(images) + 1)).astype(np.int64),
        boxes=boxes.astype(np.float32),
        labels=labels[rows],
        ignored=columns.crowd[rows],
        segmentations=found,
        positions=images,
        file_images=len(columns.sizes),
    )


def ordered_rows(
    columns: CocoColumns, kept: NDArray[np.bool_], images: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Rows of the kept annotations of the given images, image by image, each in file order."""
    position = np.full(len(columns.sizes), -1, np.int64)
    position[images] = np.arange(len(images))
    place = position[columns.image_rows]
    rows = np.flatnonzero(kept & (place >= 0))
    return rows[np.argsort(place[rows], kind="stable")]
