"""Several data sets tested in one run: ``data.test`` as a list, a ConcatDataset or with a list of files.

Ids of images repeat between annotation files, so an image is called ``<part>/<id>`` while the model runs;
metrics and files for servers are made part by part with the files' own ids.

Source: checked against MMDetection's ``ConcatDataset.evaluate``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from detector.data.datasets.base import DetectionDataset
from detector.data.datasets.source import Draw, ImageInfo, SampleSource
from detector.data.datasets.wrappers import ConcatDataset
from detector.data.transforms import Annotations
from detector.data.transforms.sample import Sample
from detector.errors import ConfigError

Kept = TypeVar("Kept")


class JoinedSplit(ConcatDataset):
    """Annotation files one after the other.

    Args:
        parts: at least one, all with the same classes.
        separate_eval: whether each part gets its own numbers, or all together.
        where: dotted path in the config, for errors.

    Attributes:
        parts: as given.
        img_prefix: empty; ``image_info`` gives whole paths.
    """

    def __init__(self, *, parts: Sequence[DetectionDataset], separate_eval: bool, where: str) -> None:
        super().__init__(datasets=parts, separate_eval=separate_eval)
        self.parts = list(parts)
        self.where = where
        self.img_prefix = Path()

    def image_info(self, index: int) -> ImageInfo:
        """The image's row, its id that of the run, its file name with the part's folder."""
        part, inner = self._place(index)
        info = self.parts[part].image_info(inner)
        path = self.parts[part].img_prefix / info["file_name"]
        return {**info, "id": name_of(part, info["id"]), "file_name": str(path)}

    def annotations(self, index: int) -> Annotations:
        """Ground truth of an image, in original pixels."""
        part, inner = self._place(index)
        return self.parts[part].annotations(inner)

    def samples(self, index: int, draw: Draw) -> list[Sample]:
        """The part's views, called as in the run."""
        part, inner = self._place(index)
        views = self.parts[part].samples(inner, draw)
        name = name_of(part, self.parts[part].image_info(inner)["id"])
        for view in views:
            view.image_id = name
        return views

    def divide(self, results: Mapping[int | str, Kept]) -> list[dict[int | str, Kept]]:
        """What belongs to each part, by the ids of its annotation file."""
        found: list[dict[int | str, Kept]] = []
        for number, part in enumerate(self.parts):
            named = ((image_id, name_of(number, image_id)) for image_id in part.image_ids)
            found.append({image_id: results[name] for image_id, name in named if name in results})
        return found

    def _place(self, index: int) -> tuple[int, int]:
        """Number of the part that holds an index, and the position in it."""
        part, inner = self.locate(index)
        return next(number for number, one in enumerate(self.parts) if one is part), inner


def name_of(part: int, image_id: int | str) -> str:
    """What an image of a part is called in the run."""
    return f"{part}/{image_id}"


#: what is tested or evaluated on
TestData = DetectionDataset | JoinedSplit


def parts_of(dataset: TestData) -> list[DetectionDataset]:
    """Its annotation files' data sets, one or several."""
    return dataset.parts if isinstance(dataset, JoinedSplit) else [dataset]


def as_test_data(source: SampleSource, where: str) -> TestData:
    """A built data set as something that can be tested.

    Args:
        source: from ``build_dataset``.
        where: dotted path in the config, for errors.

    Raises:
        ConfigError: it repeats or draws images, which is for training.
    """
    if isinstance(source, DetectionDataset):
        return source
    parts = _parts(source, where)
    separate = getattr(source, "separate_eval", True)
    return JoinedSplit(parts=parts, separate_eval=separate, where=where)


def _parts(source: SampleSource, where: str) -> list[DetectionDataset]:
    """The annotation files of lists inside lists."""
    if isinstance(source, DetectionDataset):
        return [source]
    if isinstance(source, ConcatDataset):
        return [part for inner in source.datasets for part in _parts(inner, where)]
    raise ConfigError(
        f"{where}: found a {type(source).__name__}; expected data sets of one annotation file each, or a "
        "list of them. Repeating, balancing and mixing images are for data.train."
    )
