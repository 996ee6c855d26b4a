"""Several views of one test image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detector.data.transforms.geometric import Scales, check_direction, scale_list
from detector.data.transforms.pipeline import Pipeline
from detector.data.transforms.sample import Sample
from detector.errors import ConfigError


class MultiScaleFlipAug:
    """Runs the inner steps once per scale and flip.

    Order as in MMDetection: for every scale first unflipped, then every direction.

    Args:
        transforms: the inner pipeline.
        img_scale: one (width, height) or several; or
        scale_factor: one factor or several of the original size.
        flip: whether to add flipped views.
        flip_direction: one direction or several.
    """

    def __init__(
        self,
        *,
        transforms: Pipeline,
        img_scale: Scales | None = None,
        scale_factor: float | Sequence[float] | None = None,
        flip: bool = False,
        flip_direction: str | Sequence[str] = "horizontal",
    ) -> None:
        if (img_scale is None) == (scale_factor is None):
            raise ConfigError(
                f"MultiScaleFlipAug has img_scale={img_scale} and scale_factor={scale_factor}; exactly one "
                "is needed."
            )
        self.transforms = transforms
        self.scales = [] if img_scale is None else scale_list(img_scale, "MultiScaleFlipAug.img_scale")
        factors = [] if scale_factor is None else scale_factor
        self.factors = list(factors) if isinstance(factors, Sequence) else [float(factors)]
        directions = [flip_direction] if isinstance(flip_direction, str) else list(flip_direction)
        for direction in directions:
            check_direction(direction, "MultiScaleFlipAug.flip_direction")
        self.flips: list[str | None] = [None, *directions] if flip else [None]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> list[Sample]:
        """All views, scale by scale."""
        views: list[Sample] = []
        sizes = [(scale, None) for scale in self.scales] + [(None, factor) for factor in self.factors]
        for scale, factor in sizes:
            for direction in self.flips:
                view = sample.copy()
                view.scale, view.ratio = scale, factor
                view.flip, view.flip_direction = direction is not None, direction
                views.extend(self.transforms(view, rng))
        return views
