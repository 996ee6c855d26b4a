"""A dataset of images and boxes, whatever file it was read from.

Shapes: H x W the padded network input, G ground-truth boxes.
Boxes: xyxy float32 pixels of the original image, until the pipeline resizes.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from detector.data.datasets.classes import read_classes
from detector.data.datasets.index import Index, Strings
from detector.data.datasets.proposals import StoredProposals
from detector.data.datasets.source import Draw, ImageInfo, SampleSource, colours
from detector.data.transforms import Annotations, Pipeline, Sample, UnreadableImageError
from detector.data.transforms.sample import Array
from detector.errors import ConfigError, DatasetError

log = logging.getLogger(__name__)

#: images smaller than this on one side are not trained on (the reference's rule)
MIN_SIDE = 32
#: how many other images are tried before training stops with an error
MAX_REDRAWS = 100


class DetectionDataset(SampleSource):
    """Reads an annotation file once into arrays, then makes samples through a pipeline.

    Args:
        ann_file: annotation file, below data_root unless absolute.
        pipeline: transforms of a sample.
        classes: names, a file of names, or one name; None means the type's own CLASSES.
        data_root: folder that relative ann_file, img_prefix and seg_prefix lie in.
        img_prefix: folder of the images.
        seg_prefix: folder of class maps, or None.
        seg_suffix: ending of class map files.
        proposal_file: stored proposals of every image of ``ann_file`` (``StoredProposals``), or None.
        test_mode: items are views without targets and no image is left out.
        filter_empty_gt: in training, leave out images without objects, and draw another where none is left.
        corrupt: 'error' stops at an unreadable image, 'skip' passes over it and names it once.
        where: dotted path in the config, for errors.
    """

    CLASSES: ClassVar[tuple[str, ...]] = ()
    PALETTE: ClassVar[tuple[tuple[int, int, int], ...]] = ()
    #: the annotation file names the classes where neither the config nor the type does
    CLASSES_IN_FILE: ClassVar[bool] = False

    def __init__(
        self,
        *,
        ann_file: str,
        pipeline: Pipeline,
        classes: str | Sequence[str] | None = None,
        data_root: str | None = None,
        img_prefix: str | None = "",
        seg_prefix: str | None = None,
        seg_suffix: str = ".png",
        proposal_file: str | None = None,
        test_mode: bool = False,
        filter_empty_gt: bool = True,
        corrupt: str = "error",
        where: str = "dataset",
    ) -> None:
        if corrupt not in ("error", "skip"):
            raise ConfigError(f"{where}.corrupt is {corrupt!r}; accepted: 'error', 'skip'.")
        if classes is None and not self.CLASSES and not self.CLASSES_IN_FILE:
            raise ConfigError(
                f"{where} gives no classes and {type(self).__name__} has none of its own. Set classes."
            )
        self.where = where
        self.ann_file = joined(data_root, ann_file)
        self.img_prefix = joined(data_root, img_prefix or "")
        self.seg_prefix = None if seg_prefix is None else joined(data_root, seg_prefix)
        self.seg_suffix = seg_suffix
        self.pipeline = pipeline
        self.test_mode = test_mode
        self.filter_empty_gt = filter_empty_gt
        self.corrupt = corrupt
        self.classes_given = classes is not None
        self.class_names = (
            self.CLASSES if classes is None else read_classes(classes, where=f"{where}.classes")
        )
        self.index, self.cat_ids = self.read_index()
        self.palette = colours(self.class_names, dict(zip(self.CLASSES, self.PALETTE, strict=False)))
        self.proposals: StoredProposals | None = None
        if proposal_file is not None:
            total = len(self) if self.index.file_images is None else self.index.file_images
            self.proposals = StoredProposals(joined(data_root, proposal_file), total)
        self._groups = (self.index.sizes[:, 1] > self.index.sizes[:, 0]).astype(np.uint8)

    @abstractmethod
    def read_index(self) -> tuple[Index, tuple[int, ...]]:
        """Read ``ann_file``; returns the images that count and the category id of every class.

        Sets ``class_names`` where the file names them (``CLASSES_IN_FILE``).
        """

    def __len__(self) -> int:
        return len(self.index.file_names)

    def aspect_groups(self) -> Array:
        """(n,) uint8, 1 where an image is wider than high."""
        return self._groups

    def image_info(self, index: int) -> ImageInfo:
        """Id, file name and size of an image."""
        height, width = (int(v) for v in self.index.sizes[index])
        name = self.index.file_names[index]
        return {"id": self.index.image_id(index), "file_name": name, "height": height, "width": width}

    @property
    def image_ids(self) -> list[int | str]:
        """The ids of all images, in order."""
        ids = self.index.image_ids
        return [ids[i] for i in range(len(ids))] if isinstance(ids, Strings) else ids.tolist()

    def annotations(self, index: int) -> Annotations:
        """Ground truth of an image, in original pixels."""
        rows = np.arange(self.index.offsets[index], self.index.offsets[index + 1])
        ignored = self.index.ignored[rows]
        kept, found = rows[~ignored], self.index.segmentations
        semantic = None
        if self.seg_prefix is not None:
            name = Path(self.index.file_names[index]).with_suffix(self.seg_suffix)
            semantic = str(self.seg_prefix / name)
        return Annotations(
            boxes=self.index.boxes[kept],
            labels=self.index.labels[kept],
            ignore_boxes=self.index.boxes[rows[ignored]],
            segmentations=() if found is None else [found[int(row)] for row in kept],
            image_hw=(int(self.index.sizes[index, 0]), int(self.index.sizes[index, 1])),
            semantic_path=semantic,
            ignore_labels=self.index.labels[rows[ignored]],
        )

    def labels(self, index: int) -> Array:
        """Labels of the image's objects, ignored ones included."""
        found: Array = self.index.labels[self.index.offsets[index] : self.index.offsets[index + 1]]
        return found

    def samples(self, index: int, draw: Draw) -> list[Sample]:
        """Make a sample.

        In training another image of the same aspect group takes the place of one that is unreadable
        (corrupt='skip'), that a step dropped, or that has neither objects nor ignored boxes left while
        filter_empty_gt asks for some. MMDetection trains on such an image as pure background;
        ``filter_empty_gt=False`` does so here.

        Raises:
            DatasetError: an image is unreadable, or a hundred images in a row gave no sample.
        """
        for _ in range(MAX_REDRAWS):
            views = self._views(index, draw)
            if self.test_mode or (views and (not self.filter_empty_gt or _has_boxes(views[0]))):
                return views
            index = int(draw.rng.choice(np.flatnonzero(self._groups == self._groups[index])))
        raise DatasetError(
            f"{self.where}: {MAX_REDRAWS} images in a row gave no training sample (the last one is "
            f"{self.image_info(index)['file_name']}; {len(draw.skipped)} were unreadable, the others had no "
            "box left after the pipeline). Check boxes and crop sizes, or set filter_empty_gt=False to train "
            "on empty images."
        )

    def _views(self, index: int, draw: Draw) -> list[Sample]:
        info = self.image_info(index)
        sample = Sample(
            filename=str(self.img_prefix / info["file_name"]),
            ori_filename=info["file_name"],
            image_id=info["id"],
            annotations=None if self.test_mode else self.annotations(index),
            stored_proposals=self._stored_proposals(index),
        )
        try:
            return self.pipeline(sample, draw.rng)
        except UnreadableImageError as error:
            if self.corrupt == "error":
                raise
            draw.skipped.append(error.path)
            return []

    def _stored_proposals(self, index: int) -> Array | None:
        """(p, 4) boxes in pixels of the original image, if there is a proposal file."""
        if self.proposals is None:
            return None
        positions = self.index.positions
        return self.proposals[index if positions is None else int(positions[index])]

    def check_images(self) -> None:
        """Compare the index with the files on disk, folder by folder.

        Raises:
            DatasetError: files are missing; names the folder, the count and the first three.
        """
        names = self.index.file_names
        present: dict[str, set[str]] = {}
        missing: list[str] = []
        for i in range(len(names)):
            folder, name = os.path.split(names[i])
            if folder not in present:
                present[folder] = _listing(self.img_prefix / folder)
            if name not in present[folder]:
                missing.append(names[i])
        if not missing:
            return
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        text = f"{self.img_prefix}: lacks {len(missing)} of {len(names)} images of {self.ann_file}: {first}"
        if not self.img_prefix.is_dir():
            text = f"{self.img_prefix}: this image folder does not exist; it should hold {len(names)} images"
        if self.corrupt == "skip" and len(missing) < len(names):
            log.warning("%s; they are left out (corrupt='skip')", text)
            return
        raise DatasetError(
            f"{text}. Prepare or link the data set, correct img_prefix and data_root ({self.where}), or set "
            "corrupt='skip' in the dataset to train on the others."
        )


def _has_boxes(sample: Sample) -> bool:
    """Whether there is anything to learn from besides background; ignored boxes keep background away."""
    ignored = 0 if sample.ignore_boxes is None else len(sample.ignore_boxes)
    return sample.boxes is None or len(sample.boxes) + ignored > 0


def joined(root: str | None, path: str) -> Path:
    """``path`` below ``root``, unless it is absolute or there is no root."""
    return Path(path) if root is None else Path(root) / path


def _listing(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()
