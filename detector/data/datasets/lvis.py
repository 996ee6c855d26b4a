"""LVIS in its two published forms, and other COCO-format data sets whose file names the classes.

Source: Gupta et al., LVIS, CVPR 2019, arXiv:1908.03195; Shao et al., Objects365, ICCV 2019; rules checked
against MMDetection 2.28.2 datasets/lvis.py and datasets/objects365.py.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

from detector.data.datasets.coco import CocoDataset
from detector.data.datasets.coco_file import CocoColumns, entry_value
from detector.errors import DatasetError

log = logging.getLogger(__name__)


class NamedByFileDataset(CocoDataset):
    """Classes are the file's categories in the order of their ids, unless the config names some."""

    CLASSES = ()
    PALETTE = ()
    CLASSES_IN_FILE = True
    #: number of classes of the published files
    COUNT: ClassVar[int] = 0

    def default_classes(self, columns: CocoColumns) -> tuple[str, ...]:
        """The file's category names by ascending id."""
        names = tuple(columns.categories[key] for key in sorted(columns.categories))
        if len(names) != self.COUNT:
            log.warning(
                "%s: names %d categories; the published files of %s have %d. A model trained on those has "
                "other labels.",
                self.ann_file,
                len(names),
                type(self).__name__,
                self.COUNT,
            )
        return names


class LVISV05Dataset(NamedByFileDataset):
    """LVIS v0.5: 1230 classes; the images are COCO 2017's, named as in 2014."""

    COUNT = 1230

    def file_name(self, image: dict[str, Any]) -> str:
        """``COCO_val2014_000000266409.jpg`` is ``000000266409.jpg`` in the folders of 2017."""
        name = str(entry_value(self.ann_file, image, "images", "file_name"))
        return name.rpartition("_")[2] if name.startswith("COCO") else name


class LVISDataset(LVISV05Dataset):
    """The name that old configs give LVIS v0.5."""


class LVISV1Dataset(NamedByFileDataset):
    """LVIS v1: 1203 classes; the images lie in COCO 2017's folders below ``img_prefix``."""

    COUNT = 1203

    def file_name(self, image: dict[str, Any]) -> str:
        """The end of ``coco_url``: ``train2017/000000391895.jpg``."""
        url = str(entry_value(self.ann_file, image, "images", "coco_url"))
        parts = Path(url).parts
        if len(parts) < 2:
            raise DatasetError(
                f"{self.ann_file}: image {image.get('id', '?')!r} has the coco_url {url!r}; expected an "
                "address that ends with a folder and a file name. Use the published LVIS v1 files."
            )
        return "/".join(parts[-2:])


class Objects365V1Dataset(NamedByFileDataset):
    """Objects365 of 2019: 365 classes."""

    COUNT = 365


class Objects365V2Dataset(NamedByFileDataset):
    """Objects365 of 2020: 365 classes, other names and ids.

    Three of its image files are damaged; corrupt='skip' passes over them.
    """

    COUNT = 365

    def file_name(self, image: dict[str, Any]) -> str:
        """The end of the path in the file: ``images/v1/patch8/a.jpg`` is ``patch8/a.jpg``."""
        name = str(entry_value(self.ann_file, image, "images", "file_name"))
        return "/".join(Path(name).parts[-2:])
