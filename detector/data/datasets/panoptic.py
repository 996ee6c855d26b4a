"""COCO's panoptic format: a JSON file of regions and a PNG of region numbers per image.

Shapes: n images, S regions of one image.
Source: Kirillov et al., CVPR 2019, arXiv:1801.00868; rules checked against MMDetection 2.28.2
datasets/coco_panoptic.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.data.datasets.coco import CocoDataset, make_index, ordered_rows, sizeable
from detector.data.datasets.coco_file import CocoColumns, entry_value, read_coco
from detector.data.datasets.index import Index
from detector.data.transforms import Annotations
from detector.data.transforms.sample import Segments
from detector.errors import ConfigError, DatasetError


class CocoPanopticDataset(CocoDataset):
    """Countable objects as boxes, all regions as a map; classes are the file's, countable ones first.

    Args:
        ins_ann_file: instance annotations of the same images, for the metrics of boxes and masks.
        more: as for DetectionDataset; ``seg_prefix`` is the folder of the PNG files.
    """

    CLASSES = ()
    PALETTE = ()
    CLASSES_IN_FILE = True

    def __init__(self, *, ins_ann_file: str | None = None, **more: Any) -> None:
        root = more.get("data_root")
        self.ins_ann_file = None if ins_ann_file is None else Path(root or "") / ins_ann_file
        self._things: set[int] = set()
        super().__init__(**more)
        if self.seg_prefix is None and not self.test_mode:
            raise ConfigError(
                f"{self.where} has no seg_prefix; CocoPanopticDataset needs the folder of the PNG files. "
                "Add it."
            )

    def read_columns(self) -> CocoColumns:
        """Read the file, a row per region; a row's ``segmentation`` is the region's number."""
        return read_coco(
            self.ann_file,
            need_annotations=not self.test_mode,
            file_name=self.file_name,
            prepare=self._rows,
        )

    def _rows(self, content: dict[str, Any]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for entry in content.get("annotations") or []:
            for segment in entry_value(self.ann_file, entry, "annotations", "segments_info"):
                key = entry_value(self.ann_file, segment, "segments_info", "id")
                image = entry_value(self.ann_file, entry, "annotations", "image_id")
                rows.append({**segment, "image_id": image, "segmentation": key})
        categories = content.get("categories") or []
        if categories and not any(isinstance(c, dict) and "isthing" in c for c in categories):
            raise DatasetError(
                f"{self.ann_file}: no category says 'isthing', so this is no panoptic file. Use "
                "type='CocoDataset' for instance annotations."
            )
        self._things = {c["id"] for c in categories if c.get("isthing")}
        annotations = {"annotations": rows} if "annotations" in content else {}
        return {**content, **annotations}

    def default_classes(self, columns: CocoColumns) -> tuple[str, ...]:
        """Countable classes by ascending id, then the others."""
        order = sorted(columns.categories, key=lambda key: (key not in self._things, key))
        return tuple(columns.categories[key] for key in order)

    def valid(self, columns: CocoColumns) -> NDArray[np.bool_]:
        """(m,) regions with area, at least a pixel wide and high."""
        return sizeable(columns)

    def usable(self, columns: CocoColumns, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) images with a countable region of the wanted classes."""
        wanted: NDArray[np.bool_] = np.zeros(len(columns.sizes), bool)
        wanted[columns.image_rows[(labels >= 0) & self._countable(columns)]] = True
        return wanted

    def _countable(self, columns: CocoColumns) -> NDArray[np.bool_]:
        return np.isin(columns.category_ids, np.array(sorted(self._things), np.int64))

    def make_index(self, columns: CocoColumns, labels: NDArray[np.int64], images: NDArray[np.int64]) -> Index:
        """Countable regions as objects; all regions go to arrays of their own."""
        valid, things = self.valid(columns), self._countable(columns)
        every = make_index(columns, labels, valid, images, with_masks=False)
        kept = ordered_rows(columns, valid & (labels >= 0), images)
        self._offsets = every.offsets
        self._ids = np.array([columns.segmentations[int(row)] for row in kept], np.int64)
        self._labels = labels[kept]
        self._singles = things[kept] & ~columns.crowd[kept]
        return make_index(columns, labels, valid & things, images, with_masks=False)

    def annotations(self, index: int) -> Annotations:
        """Ground truth of an image, with its regions."""
        found = super().annotations(index)
        assert self.seg_prefix is not None, "the constructor checks"
        part = slice(int(self._offsets[index]), int(self._offsets[index + 1]))
        name = Path(self.index.file_names[index]).with_suffix(self.seg_suffix)
        segments = Segments(
            path=str(self.seg_prefix / name),
            ids=self._ids[part],
            labels=self._labels[part],
            singles=self._singles[part],
        )
        return replace(found, segments=segments, semantic_path=None)
