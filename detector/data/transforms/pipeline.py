"""Steps one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detector.data.transforms.loading import LoadAnnotations
from detector.data.transforms.sample import Sample, Transform


class Pipeline:
    """Applies transforms in order.

    Args:
        transforms: the steps; one that gives several views (MultiScaleFlipAug) must come last.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> list[Sample]:
        """The views of one sample: one in training, one or more in testing, none when a step dropped it."""
        views = [sample]
        for transform in self.transforms:
            results = [transform(view, rng) for view in views]
            views = []
            for result in results:
                views.extend(result if isinstance(result, list) else [] if result is None else [result])
        return views

    @property
    def loads_masks(self) -> bool:
        """Whether a LoadAnnotations step asks for masks."""
        return any(isinstance(t, LoadAnnotations) and t.with_mask for t in self.transforms)
