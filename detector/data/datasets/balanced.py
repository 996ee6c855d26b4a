"""Images with rare classes more often.

Shapes: n images, C classes.
Source: Gupta et al., LVIS, CVPR 2019, arXiv:1908.03195, appendix B; behaviour checked against MMDetection
2.28.2 ClassBalancedDataset.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.data.datasets.source import Draw, ImageInfo, SampleSource
from detector.data.transforms.sample import Array, Sample
from detector.errors import ConfigError


class ClassBalancedDataset(SampleSource):
    """One epoch holds every image ceil(r) times, r being the largest factor of the image's classes.

    A class in a fraction f of the images has the factor max(1, sqrt(oversample_thr / f)). Every repetition
    draws other random numbers.

    Args:
        dataset: what to balance.
        oversample_thr: classes in a smaller fraction of the images are repeated.
        filter_empty_gt: False lets images without objects count as a class of their own.
    """

    def __init__(self, *, dataset: SampleSource, oversample_thr: float, filter_empty_gt: bool = True) -> None:
        if not 0 < oversample_thr <= 1:
            raise ConfigError(
                f"ClassBalancedDataset.oversample_thr is {oversample_thr!r}; expected a fraction of the "
                "images in (0, 1], such as 1e-3."
            )
        self.dataset = dataset
        self.test_mode = dataset.test_mode
        self.class_names, self.palette, self.cat_ids = dataset.class_names, dataset.palette, dataset.cat_ids
        empty = None if filter_empty_gt else len(self.class_names)
        factors = repeat_factors(dataset, oversample_thr, empty_label=empty)
        self.indices = np.repeat(np.arange(len(dataset)), np.ceil(factors).astype(np.int64))

    def __len__(self) -> int:
        return len(self.indices)

    def aspect_groups(self) -> Array:
        """The dataset's groups, repeated."""
        groups: Array = self.dataset.aspect_groups()[self.indices]
        return groups

    def image_info(self, index: int) -> ImageInfo:
        """The image's row."""
        return self.dataset.image_info(int(self.indices[index]))

    def labels(self, index: int) -> Array:
        """Labels of the image's objects."""
        return self.dataset.labels(int(self.indices[index]))

    def samples(self, index: int, draw: Draw) -> list[Sample]:
        """The dataset's sample."""
        return self.dataset.samples(int(self.indices[index]), draw)

    def check_images(self) -> None:
        """Check the dataset's files."""
        self.dataset.check_images()


def repeat_factors(
    dataset: SampleSource, threshold: float, *, empty_label: int | None = None
) -> NDArray[np.float64]:
    """(n,) how often each image should come, at least 1.

    Args:
        dataset: n images.
        threshold: fraction of the images below which a class is rare.
        empty_label: class that images without objects count as, or None.
    """
    present = [np.unique(dataset.labels(i)) for i in range(len(dataset))]
    if empty_label is not None:
        present = [labels if len(labels) else np.array([empty_label]) for labels in present]
    counts = np.array([len(labels) for labels in present], np.int64)
    joined = np.concatenate([np.zeros(0, np.int64), *present])
    images = np.bincount(joined, minlength=1)
    with np.errstate(divide="ignore"):
        of_class = np.maximum(1.0, np.sqrt(threshold * len(dataset) / images))
    factors = np.ones(len(dataset))
    np.maximum.at(factors, np.repeat(np.arange(len(dataset)), counts), of_class[joined])
    return factors
