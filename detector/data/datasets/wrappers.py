"""Datasets made of datasets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detector.data.datasets.source import Draw, ImageInfo, SampleSource
from detector.data.transforms.sample import Array, Sample
from detector.errors import ConfigError, DatasetError


class RepeatDataset(SampleSource):
    """One epoch passes ``times`` times over a dataset, with other random numbers each time.

    Args:
        dataset: what to repeat.
        times: how often.
    """

    def __init__(self, *, dataset: SampleSource, times: int) -> None:
        if times < 1:
            raise ConfigError(f"RepeatDataset.times is {times}; expected at least 1.")
        self.dataset = dataset
        self.times = times
        self.test_mode = dataset.test_mode
        self.class_names, self.palette, self.cat_ids = dataset.class_names, dataset.palette, dataset.cat_ids

    def __len__(self) -> int:
        return self.times * len(self.dataset)

    def aspect_groups(self) -> Array:
        """The dataset's groups, repeated."""
        return np.tile(self.dataset.aspect_groups(), self.times)

    def image_info(self, index: int) -> ImageInfo:
        """The image's row."""
        return self.dataset.image_info(index % len(self.dataset))

    def labels(self, index: int) -> Array:
        """Labels of the image's objects."""
        return self.dataset.labels(index % len(self.dataset))

    def samples(self, index: int, draw: Draw) -> list[Sample]:
        """The dataset's sample."""
        return self.dataset.samples(index % len(self.dataset), draw)

    def check_images(self) -> None:
        """Check the dataset's files."""
        self.dataset.check_images()


class ConcatDataset(SampleSource):
    """Datasets one after the other.

    Args:
        datasets: at least one; all with the same classes and mode.
        separate_eval: whether each part gets its own numbers in an evaluation, or all together.

    Attributes:
        datasets: the parts.
        separate_eval: as given.
    """

    def __init__(self, *, datasets: Sequence[SampleSource], separate_eval: bool = True) -> None:
        if not datasets:
            raise ConfigError("ConcatDataset.datasets is empty; expected at least one dataset.")
        first = datasets[0]
        for i, other in enumerate(datasets):
            if other.class_names != first.class_names or other.test_mode != first.test_mode:
                raise DatasetError(
                    f"ConcatDataset.datasets.{i} has the classes {', '.join(other.class_names)}, the first "
                    "has "
                    f"{', '.join(first.class_names)}. All need the same classes in the same order. Set "
                    "classes in each."
                )
        self.datasets = list(datasets)
        self.separate_eval = separate_eval
        self.ends = np.cumsum([len(d) for d in datasets])
        self.test_mode = first.test_mode
        self.class_names, self.palette, self.cat_ids = first.class_names, first.palette, first.cat_ids

    def __len__(self) -> int:
        return int(self.ends[-1])

    def locate(self, index: int) -> tuple[SampleSource, int]:
        """The part that holds an index, and the position in it."""
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.datasets[part], index - (int(self.ends[part - 1]) if part else 0)

    def aspect_groups(self) -> Array:
        """The parts' groups, joined."""
        return np.concatenate([d.aspect_groups() for d in self.datasets])

    def image_info(self, index: int) -> ImageInfo:
        """The image's row."""
        part, inner = self.locate(index)
        return part.image_info(inner)

    def labels(self, index: int) -> Array:
        """Labels of the image's objects."""
        part, inner = self.locate(index)
        return part.labels(inner)

    def samples(self, index: int, draw: Draw) -> list[Sample]:
        """The part's sample."""
        part, inner = self.locate(index)
        return part.samples(inner, draw)

    def check_images(self) -> None:
        """Check every part's files."""
        for part in self.datasets:
            part.check_images()
