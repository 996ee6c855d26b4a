"""What the loader asks of a dataset, whatever file it reads and whatever wraps it.

Shapes: H x W the padded network input.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypedDict

import numpy as np
from torch import Tensor

from detector.data.transforms.sample import Array, Sample
from detector.structures.samples import ImageMeta, Targets

log = logging.getLogger(__name__)

#: an input image, where it came from and, where the pipeline loads them, its (n, 4) stored proposals
View: TypeAlias = tuple[Tensor, ImageMeta] | tuple[Tensor, ImageMeta, Tensor]
#: a training sample, or the views of a test image (an empty list for an image left out by corrupt='skip')
Item: TypeAlias = tuple[Tensor, Targets, ImageMeta] | list[View]


@dataclass(frozen=True, slots=True)
class SampleKey:
    """What makes a sample: with the seed, these three decide every random number in it.

    Attributes:
        index: position in the dataset.
        epoch: epoch number.
        repeat: 0 for the first time that the epoch uses this index, 1 for the second (padding of batches),
        ...
    """

    index: int
    epoch: int = 0
    repeat: int = 0


class ImageInfo(TypedDict):
    """One row of an annotation file's image list."""

    id: int | str
    file_name: str
    height: int
    width: int


@dataclass
class Draw:
    """What one sample is made with.

    Attributes:
        rng: the only source of randomness.
        epoch: epoch number.
        skipped: collects the unreadable files that were passed over.
    """

    rng: np.random.Generator
    epoch: int = 0
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fetched:
    """A sample and the unreadable files that were passed over on the way to it."""

    item: Item
    skipped: tuple[str, ...] = ()


class SampleSource(ABC):
    """Base of datasets and of what wraps them.

    Attributes:
        seed: base of every sample's random numbers; the engine sets it.
        test_mode: whether items are lists of views without targets.
        class_names: names of the labels 0..C-1.
        palette: an RGB colour per class.
        cat_ids: the annotation file's category id of every label.
    """

    seed: int = 0
    test_mode: bool
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    cat_ids: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples of one epoch."""

    @abstractmethod
    def samples(self, index: int, draw: Draw) -> list[Sample]:
        """Make sample ``index``: one in training, the views in testing (none for an unreadable image)."""

    @abstractmethod
    def image_info(self, index: int) -> ImageInfo:
        """The image's row in the annotation file."""

    @abstractmethod
    def labels(self, index: int) -> Array:
        """Labels of the image's objects in the annotation file, ignored ones included."""

    def has_objects(self, index: int) -> bool:
        """Whether the annotation file has an object in the image."""
        return len(self.labels(index)) > 0

    @abstractmethod
    def aspect_groups(self) -> Array:
        """(n,) uint8, 1 where an image is wider than high: batches hold one group."""

    @abstractmethod
    def check_images(self) -> None:
        """Raise DatasetError when image files are missing, naming the first few."""

    @property
    def image_ids(self) -> list[int | str]:
        """The ids of all samples, in order."""
        return [self.image_info(i)["id"] for i in range(len(self))]

    def fetch(self, key: SampleKey | int) -> Fetched:
        """The sample of a key; the same key and seed give the same sample in any process."""
        key = key if isinstance(key, SampleKey) else SampleKey(int(key))
        if not 0 <= key.index < len(self):
            raise IndexError(f"sample {key.index} of {len(self)}")
        draw = Draw(np.random.default_rng((self.seed, key.epoch, key.index, key.repeat)), key.epoch)
        made = self.samples(key.index, draw)
        if self.test_mode:
            return Fetched(item=[_as_view(view) for view in made], skipped=tuple(draw.skipped))
        (one,) = made
        item = (one.image_tensor(), one.targets(), one.meta())
        return Fetched(item=item, skipped=tuple(draw.skipped))

    def __getitem__(self, key: SampleKey | int) -> Item:
        fetched = self.fetch(key)
        for name in fetched.skipped:
            log.warning("left out (corrupt='skip'): %s", name)
        return fetched.item


def _as_view(sample: Sample) -> View:
    proposals = sample.proposal_tensor()
    if proposals is None:
        return sample.image_tensor(), sample.meta()
    return sample.image_tensor(), sample.meta(), proposals


def colours(names: Sequence[str], known: dict[str, tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """A colour per name: the known one, else one spread over the colour circle by the name's position."""
    return tuple(known.get(name) or _spread(i) for i, name in enumerate(names))


def _spread(position: int) -> tuple[int, int, int]:
    """Neighbouring positions lie a golden section of the colour circle apart."""
    hue = (position * 0.618034) % 1.0 * 6.0
    ramp = int(60 + 195 * (1 - abs(hue % 2 - 1)))
    wheel = (
        (255, ramp, 60),
        (ramp, 255, 60),
        (60, 255, ramp),
        (60, ramp, 255),
        (ramp, 60, 255),
        (255, 60, ramp),
    )
    return wheel[int(hue)]
