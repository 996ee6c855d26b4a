"""A dataset whose samples are made of several images of another one.

Source: behaviour checked against MMDetection 2.28.2 MultiImageMixDataset.
"""

from __future__ import annotations

from collections.abc import Sequence

from detector.data.datasets.base import MAX_REDRAWS
from detector.data.datasets.source import Draw, ImageInfo, SampleSource
from detector.data.naming import nearest
from detector.data.transforms import Pipeline, Sample
from detector.data.transforms.mixing import Mixing
from detector.data.transforms.sample import Array
from detector.errors import ConfigError, DatasetError


class MultiImageMixDataset(SampleSource):
    """Runs a second pipeline, whose mixing steps (Mosaic, MixUp, CopyPaste) may ask for more samples.

    The inner dataset's pipeline loads images and annotations; this one mixes, augments and formats. For
    training only.

    Args:
        dataset: where the single samples come from.
        pipeline: steps on them.
        skip_type_keys: names of steps to leave out from the start.
    """

    def __init__(
        self,
        *,
        dataset: SampleSource,
        pipeline: Pipeline,
        skip_type_keys: Sequence[str] | None = None,
    ) -> None:
        if dataset.test_mode:
            raise ConfigError("MultiImageMixDataset mixes training images; remove it from val and test.")
        self.dataset = dataset
        self.pipeline = pipeline
        self.test_mode = False
        self.class_names, self.palette, self.cat_ids = dataset.class_names, dataset.palette, dataset.cat_ids
        self._skips: list[tuple[int, frozenset[str]]] = [(0, frozenset())]
        if skip_type_keys is not None:
            self.update_skip_type_keys(skip_type_keys)

    def update_skip_type_keys(self, skip_type_keys: Sequence[str], *, from_epoch: int = 0) -> None:
        """Leave out the steps of these types from an epoch on; the names replace earlier ones.

        Call it before the loader starts: its workers hold their own copy of the dataset. As it goes by the
        epoch of each sample, a resumed run leaves out the same steps.

        Args:
            skip_type_keys: names of steps; the empty list brings all back.
            from_epoch: first epoch, counted from 0.

        Raises:
            ConfigError: the pipeline has no step of a name.
        """
        present = {type(step).__name__ for step in self.pipeline.transforms}
        for name in skip_type_keys:
            if name not in present:
                raise ConfigError(
                    f"MultiImageMixDataset.skip_type_keys has {name!r}, which its pipeline lacks"
                    f"{nearest(name, present)}. Its steps: {', '.join(sorted(present))}. Correct the name."
                )
        kept = [entry for entry in self._skips if entry[0] < from_epoch]
        self._skips = [*kept, (from_epoch, frozenset(skip_type_keys))]

    def skipped_in(self, epoch: int) -> frozenset[str]:
        """Names of the steps left out in an epoch."""
        return [names for start, names in self._skips if start <= epoch][-1]

    def __len__(self) -> int:
        return len(self.dataset)

    def aspect_groups(self) -> Array:
        """The dataset's groups."""
        return self.dataset.aspect_groups()

    def image_info(self, index: int) -> ImageInfo:
        """The image's row."""
        return self.dataset.image_info(index)

    def labels(self, index: int) -> Array:
        """Labels of the image's objects."""
        return self.dataset.labels(index)

    def samples(self, index: int, draw: Draw) -> list[Sample]:
        """Run the steps on the dataset's sample; begin with another image where a step drops it.

        Raises:
            DatasetError: a hundred images in a row gave no sample.
        """
        for _ in range(MAX_REDRAWS):
            made = self._mixed(index, draw)
            if made is not None:
                return [made]
            index = int(draw.rng.integers(len(self.dataset)))
        raise DatasetError(
            f"MultiImageMixDataset: {MAX_REDRAWS} images in a row were dropped by its pipeline (the last one "
            f"is {self.image_info(index)['file_name']}). Loosen FilterAnnotations or the crops."
        )

    def _mixed(self, index: int, draw: Draw) -> Sample | None:
        (sample,) = self.dataset.samples(index, draw)
        skipped = self.skipped_in(draw.epoch)
        for step in self.pipeline.transforms:
            if type(step).__name__ in skipped:
                continue
            if isinstance(step, Mixing):
                partners = step.partners(self.dataset, draw.rng)
                others = [one for i in partners for one in self.dataset.samples(i, draw)]
                sample = step.mix(sample, others, draw.rng)
                continue
            made = step(sample, draw.rng)
            if isinstance(made, list):
                made = made[0] if made else None
            if made is None:
                return None
            sample = made
        return sample

    def check_images(self) -> None:
        """Check the dataset's files."""
        self.dataset.check_images()
