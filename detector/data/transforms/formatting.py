"""The end of a pipeline: what is kept, and in which form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detector.data.naming import nearest
from detector.data.transforms.sample import Sample
from detector.errors import ConfigError

KEYS = ("img", "gt_bboxes", "gt_labels", "gt_bboxes_ignore", "gt_masks", "gt_semantic_seg", "proposals")

PADDING = {"img": 0, "masks": 0, "seg": 255}


class DefaultFormatBundle:
    """Makes the image float32; tensors are made when the sample leaves the dataset.

    Args:
        img_to_float: convert the image to float32 (the network takes nothing else).
        pad_val: what batches are padded with; only MMDetection's defaults exist (image 0, masks 0, seg 255).
    """

    def __init__(self, *, img_to_float: bool = True, pad_val: Mapping[str, Any] | None = None) -> None:
        if any(key not in PADDING or value != PADDING[key] for key, value in (pad_val or {}).items()):
            raise ConfigError(
                f"DefaultFormatBundle.pad_val is {dict(pad_val or {})}; expected {PADDING}, the only values "
                "that batches are padded with. Remove the setting, or use Pad(pad_val=...)."
            )
        self.img_to_float = img_to_float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Convert the image."""
        sample.image = sample.pixels().astype(np.float32, copy=False)
        return sample


class ImageToTensor:
    """Makes the image float32 in test pipelines; only the key 'img' exists.

    Args:
        keys: must be ['img'].
    """

    def __init__(self, *, keys: Sequence[str]) -> None:
        if list(keys) != ["img"]:
            raise ConfigError(f"ImageToTensor.keys is {list(keys)}; expected ['img'].")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Convert the image."""
        sample.image = sample.pixels().astype(np.float32, copy=False)
        return sample


class ToTensor:
    """Names what would become tensors in MMDetection; here everything collected does.

    Args:
        keys: names that Collect knows.
    """

    def __init__(self, *, keys: Sequence[str]) -> None:
        _check_known(keys, "ToTensor.keys")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Leave the sample as it is."""
        return sample


class ToDataContainer:
    """Says how MMDetection would batch; here images are padded and the rest is kept per image.

    Args:
        fields: dicts with a ``key`` that Collect knows, and MMDetection's flags.
    """

    def __init__(
        self,
        *,
        fields: Sequence[Mapping[str, Any]] = (
            {"key": "img", "stack": True},
            {"key": "gt_bboxes"},
            {"key": "gt_labels"},
        ),
    ) -> None:
        if any("key" not in field for field in fields):
            raise ConfigError(
                f"ToDataContainer.fields is {list(fields)}; expected dicts with a 'key' "
                "such as dict(key='img')."
            )
        _check_known([field["key"] for field in fields], "ToDataContainer.fields")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Leave the sample as it is."""
        return sample


def _check_known(keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in KEYS:
            raise ConfigError(f"{where} has {key!r}{nearest(key, KEYS)}; accepted: {', '.join(KEYS)}.")


class Collect:
    """Names what leaves the pipeline.

    Args:
        keys: MMDetection's names; 'img' among them.
        meta_keys: accepted for old configs; an ImageMeta always carries all of them.
    """

    def __init__(self, *, keys: Sequence[str], meta_keys: Sequence[str] | None = None) -> None:
        _check_known(keys, "Collect.keys")
        if "img" not in keys:
            raise ConfigError(f"Collect.keys is {list(keys)}; a network input needs 'img'. Add it.")
        self.keys = tuple(keys)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Remember the keys."""
        for key, value in (
            ("gt_masks", sample.masks),
            ("gt_semantic_seg", sample.semantic),
            ("gt_bboxes", sample.boxes),
        ):
            if key in self.keys and value is None:
                raise ConfigError(
                    f"Collect.keys has {key!r}, which no earlier step loaded. Set with_mask, with_seg or "
                    "with_bbox "
                    "in LoadAnnotations, or remove the key."
                )
        if "proposals" in self.keys and sample.proposals is None:
            raise ConfigError(
                "Collect.keys has 'proposals', which no earlier step loaded. Add LoadProposals and set "
                "proposal_file in the dataset, or remove the key."
            )
        sample.collected = self.keys
        return sample
