"""The data sets known by name, and where their folders are kept and linked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from detector.errors import DatasetError
from detector.naming import close_names


@dataclass(frozen=True)
class Part:
    """A folder of a data set that the project links.

    Attributes:
        name: its name below ``data/<data set>``.
        source: its path below the folder of the data set (or of ``of``) in the store.
        required: whether the data set is of use without it.
        of: another data set that the folder belongs to; '' for the data set itself.
        beside: linked as ``data/<name>``, where MMDetection's configs look for it; what is there already
            stays.
    """

    name: str
    source: str
    required: bool = True
    of: str = ""
    beside: bool = False

    def place(self, store: Path, dataset: str) -> Path:
        """The folder in the store."""
        return store / (self.of or dataset) / self.source


# Converted annotations are real files in data/<name>/annotations, so no part has that name.
DATASETS: dict[str, tuple[Part, ...]] = {
    "sample": (Part("leftImg8bit", "leftImg8bit"), Part("gtFine", "gtFine")),
    "cityscapes": (Part("leftImg8bit", "leftImg8bit"), Part("gtFine", "gtFine")),
    "coco": (
        Part("train2017", "train2017", required=False),
        Part("val2017", "val2017"),
        Part("test2017", "test2017", required=False),
        Part("source_annotations", "annotations"),
        Part("stuffthingmaps", "stuffthingmaps", required=False),
        Part("panoptic_train2017", "panoptic/panoptic_train2017", required=False),
        Part("panoptic_val2017", "panoptic/panoptic_val2017", required=False),
    ),
    "lvis_v0.5": (
        Part("source_annotations", "annotations"),
        Part("train2017", "train2017", of="coco"),
        Part("val2017", "val2017", of="coco"),
        Part("test2017", "test2017", required=False, of="coco"),
    ),
    "lvis_v1": (
        Part("source_annotations", "annotations"),
        Part("train2017", "train2017", of="coco"),
        Part("val2017", "val2017", of="coco"),
        Part("test2017", "test2017", required=False, of="coco"),
    ),
    "voc": (Part("VOCdevkit", "VOCdevkit"), Part("VOCdevkit", "VOCdevkit", beside=True)),
}


def parts_of(name: str) -> tuple[Part, ...]:
    """Parts of a data set; an unknown name is an error with the nearest one."""
    if name in DATASETS:
        return DATASETS[name]
    close = close_names(name, DATASETS, count=1)
    hint = f"Did you mean {close[0]!r}?" if close else "Use one of them."
    raise DatasetError(
        f"data set {name!r} is not known, expected one of {', '.join(sorted(DATASETS))}. {hint}"
    )


def missing_parts(name: str, store: Path) -> list[str]:
    """Required folders that are not in the store, as paths below it where they belong to another data set."""
    missing = [
        f"{part.of}/{part.source}" if part.of else part.source
        for part in parts_of(name)
        if part.required and not part.place(store, name).is_dir()
    ]
    return list(dict.fromkeys(missing))


def default_store() -> Path:
    """Where data sets are kept: ``DETECTOR_DATASETS``, else ``.datasets`` in the working folder."""
    return Path(os.environ.get("DETECTOR_DATASETS") or ".datasets").expanduser().absolute()


def default_mirrors() -> list[str]:
    """Servers or folders to take archives from instead of their own: ``DETECTOR_MIRROR``, apart by spaces."""
    return os.environ.get("DETECTOR_MIRROR", "").split()
