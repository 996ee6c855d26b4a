"""Annotations in Pascal VOC's XML files, one per image.

Shapes: n images, m objects.
Boxes: xyxy in the files, counted from 1; minus 1 in the index, so that x2 - x1 is one less than the number of
pixels, as the reference has it.
Source: Everingham et al., The Pascal VOC challenge (2010); rules checked against MMDetection 2.28.2
datasets/xml_style.py and datasets/voc.py.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.data.class_names import VOC_CLASSES
from detector.data.datasets.base import MIN_SIDE, DetectionDataset
from detector.data.datasets.index import Index, Strings
from detector.data.datasets.voc_file import VocFile, VocReader, read_list
from detector.data.naming import nearest
from detector.errors import ConfigError, DatasetError

log = logging.getLogger(__name__)

YEARS = (2007, 2012)


class XMLDataset(DetectionDataset):
    """A list of image names with an XML file each, in VOC's layout below ``img_prefix``.

    Objects of other classes are passed over. Difficult objects become ignored boxes. An image is trained on
    when it has an object of the classes, difficult or not. In testing a split may have no XML file at all, as
    the one that VOC's server judges; it can be formatted, not evaluated.

    Args:
        min_size: in training, objects with a side of fewer pixels become ignored boxes.
        img_subdir: folder of the images below ``img_prefix``.
        ann_subdir: folder of the XML files below ``img_prefix``.
        more: as for DetectionDataset; ``ann_file`` is a text file with an image name per line.
    """

    def __init__(
        self,
        *,
        min_size: int | None = None,
        img_subdir: str = "JPEGImages",
        ann_subdir: str = "Annotations",
        **more: Any,
    ) -> None:
        if min_size is not None and more.get("test_mode"):
            raise ConfigError(
                f"{more.get('where', 'dataset')}.min_size is {min_size} in a test dataset; ignoring small "
                "objects is for training. Remove the key."
            )
        self.min_size = min_size
        self.img_subdir = img_subdir
        self.ann_subdir = ann_subdir
        super().__init__(**more)

    def read_index(self) -> tuple[Index, tuple[int, ...]]:
        """Read the list and every XML file of it."""
        names = read_list(self.ann_file)
        reader = VocReader(self.img_prefix, self.img_subdir, self.ann_subdir)
        if self.test_mode and reader.annotates_none(names):
            files = [reader.read_image(name) for name in names]
        else:
            files = [self.read_one(reader, name) for name in names]
        self._check_names(files)
        label_of = {name: i for i, name in enumerate(self.class_names)}
        images = [i for i, file in enumerate(files) if self._counts(file, label_of)]
        if not images:
            raise DatasetError(
                f"{self.ann_file}: no image is left to train on. All {len(files)} have a side below "
                f"{MIN_SIDE} pixels or no object of the classes {', '.join(self.class_names[:8])}. Check the "
                "annotations, or set filter_empty_gt=False to train on images without objects."
            )
        index = self._index(names, files, label_of, np.array(images, np.int64))
        log.info("%s: %d images, %d objects", self.ann_file, len(images), len(index.labels))
        return index, tuple(range(len(self.class_names)))

    def read_one(self, reader: VocReader, name: str) -> VocFile:
        """One image's size and objects."""
        return reader.read(name)

    def _counts(self, file: VocFile, label_of: dict[str, int]) -> bool:
        """Whether an image is used: always in testing."""
        if self.test_mode:
            return True
        wanted = not self.filter_empty_gt or any(name in label_of for name in file.names)
        return min(file.height, file.width) >= MIN_SIDE and wanted

    def _check_names(self, files: list[VocFile]) -> None:
        """Raise when a class seems misspelt; warn when it merely does not occur."""
        found = {name for file in files for name in file.names}
        absent = [name for name in self.class_names if name not in found]
        strange = found - set(self.class_names)
        near = {name: nearest(name, strange) for name in absent if self.classes_given}
        wrong = [name for name in absent if near.get(name)]
        if not wrong and (not found or len(absent) < len(self.class_names)):
            if absent and not self.test_mode:
                log.warning("%s: has no object of the classes %s", self.ann_file, ", ".join(absent))
            return
        listed = ", ".join(map(repr, sorted(found)[:20])) + (", ..." if len(found) > 20 else "")
        shown = ", ".join(f"{name!r}{near.get(name, '')}" for name in (wrong or absent)[:3])
        raise DatasetError(
            f"{self.ann_file}: its {len(files)} annotation files have no object named {shown}. Their names "
            f"are {listed}. Set classes=(...) in every dataset of the config (and num_classes in the model) "
            "to names from this list."
        )

    def _index(
        self,
        names: list[str],
        files: list[VocFile],
        label_of: dict[str, int],
        images: NDArray[np.int64],
    ) -> Index:
        """The kept images and their objects of known classes as arrays."""
        kept = [files[i] for i in images]
        known = [[name in label_of for name in file.names] for file in kept]
        boxes = np.concatenate(
            [np.zeros((0, 4)), *(f.boxes[k] for f, k in zip(kept, known, strict=True) if any(k))]
        )
        difficult = [
            d for f, k in zip(kept, known, strict=True) for d, ok in zip(f.difficult, k, strict=True) if ok
        ]
        labels = [label_of[name] for file in kept for name in file.names if name in label_of]
        return Index(
            image_ids=Strings(names[i] for i in images),
            file_names=Strings(file.file_name for file in kept),
            sizes=np.array([[file.height, file.width] for file in kept], np.int32),
            offsets=np.cumsum([0, *(sum(k) for k in known)], dtype=np.int64),
            boxes=(boxes - 1).astype(np.float32),
            labels=np.array(labels, np.int64),
            ignored=self._ignored(boxes, np.array(difficult, bool)),
            segmentations=None,
            positions=images,
            file_images=len(names),
        )

    def _ignored(self, boxes: NDArray[np.float64], difficult: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(m,) which objects are not learnt."""
        if self.test_mode:
            return difficult
        # a box one pixel wide has no width in these coordinates, and the logarithm of it would be no number
        sides = boxes[:, 2:] - boxes[:, :2]
        small = np.any(sides < (self.min_size or 0), axis=1) | np.any(sides <= 0, axis=1)
        ignored: NDArray[np.bool_] = difficult | small
        return ignored


class VOCDataset(XMLDataset):
    """Pascal VOC 2007 or 2012, its twenty classes.

    Attributes:
        year: 2007 or 2012, found in ``img_prefix``; decides how precision is averaged.
    """

    CLASSES = VOC_CLASSES
    PALETTE = (
        (106, 0, 228), (119, 11, 32), (165, 42, 42), (0, 0, 192), (197, 226, 255), (0, 60, 100), (0, 0, 142),
        (255, 77, 255), (153, 69, 1), (120, 166, 157), (0, 182, 199), (0, 226, 252), (182, 182, 255),
        (0, 0, 230), (220, 20, 60), (163, 255, 0), (0, 82, 0), (3, 95, 161), (0, 80, 100), (183, 130, 88),
    )  # fmt: skip

    def read_index(self) -> tuple[Index, tuple[int, ...]]:
        """Find the year, then read."""
        self.year = year_of(self.img_prefix, self.where)
        return super().read_index()


class WIDERFaceDataset(XMLDataset):
    """WIDER FACE converted to VOC's layout; every XML file names the folder of its image."""

    CLASSES = ("face",)
    PALETTE = ((0, 255, 0),)

    def read_one(self, reader: VocReader, name: str) -> VocFile:
        """One image, which lies in ``img_prefix/<folder>/``."""
        return reader.read(name, image_in_folder=True)


def year_of(img_prefix: Path, where: str) -> int:
    """The year in a path such as ``data/VOCdevkit/VOC2007``.

    Raises:
        ConfigError: there is none.
    """
    for year in YEARS:
        if f"VOC{year}" in str(img_prefix):
            return year
    raise ConfigError(
        f"{where}.img_prefix is {str(img_prefix)!r}, which names neither VOC2007 nor VOC2012; the year "
        "decides how VOCDataset is evaluated. Use such a folder, or type='XMLDataset' with classes=(...) for "
        "own data in VOC's format."
    )
