"""What is kept of the objects, the class map's size, and one of several ways to go on.

Shapes: G boxes, H x W the current image.
Boxes: xyxy float32 pixels of the current image.
Source: behaviour checked against MMDetection 2.28.2 FilterAnnotations, SegRescale and AutoAugment.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detector.data.transforms.pipeline import Pipeline
from detector.data.transforms.sample import Sample
from detector.errors import ConfigError


class FilterAnnotations:
    """Drops objects that became too small.

    Args:
        min_gt_bbox_wh: (width, height) in pixels that a box must exceed.
        min_gt_mask_area: least number of mask pixels.
        by_box: whether boxes decide.
        by_mask: whether masks decide; with both, an object must pass both.
        keep_empty: True drops a sample of which nothing is left (another image takes its place), False keeps
            it without objects. (The reference's name says the contrary of what it does.)
    """

    def __init__(
        self,
        *,
        min_gt_bbox_wh: Sequence[float] = (1.0, 1.0),
        min_gt_mask_area: float = 1,
        by_box: bool = True,
        by_mask: bool = False,
        keep_empty: bool = True,
    ) -> None:
        if not (by_box or by_mask):
            raise ConfigError("FilterAnnotations has by_box=False and by_mask=False; set at least one.")
        self.min_wh = np.array(min_gt_bbox_wh, np.float32)
        self.min_gt_mask_area = min_gt_mask_area
        self.by_box = by_box
        self.by_mask = by_mask
        self.keep_empty = keep_empty

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        """Filter; a sample that came without objects passes."""
        if sample.boxes is None:
            raise ConfigError("FilterAnnotations ran before boxes were loaded. Put it after LoadAnnotations.")
        if not len(sample.boxes):
            return sample
        kept = np.ones(len(sample.boxes), bool)
        if self.by_box:
            kept &= np.all(sample.boxes[:, 2:] - sample.boxes[:, :2] > self.min_wh, axis=1)
        if self.by_mask:
            if sample.masks is None:
                raise ConfigError(
                    "FilterAnnotations(by_mask=True) ran without masks. Set with_mask=True in "
                    "LoadAnnotations."
                )
            kept &= sample.masks.sum(axis=(1, 2), dtype=np.int64) >= self.min_gt_mask_area
        if not kept.any() and self.keep_empty:
            return None
        sample.keep(kept)
        return sample


class SegRescale:
    """Scales the class map alone, for heads that predict it at a coarser grid.

    Args:
        scale_factor: factor of both sides.
        backend: 'cv2' is the only one.
    """

    def __init__(self, *, scale_factor: float = 1, backend: str = "cv2") -> None:
        if backend != "cv2":
            raise ConfigError(f"SegRescale.backend is {backend!r}; accepted: 'cv2'.")
        if not scale_factor > 0:
            raise ConfigError(f"SegRescale.scale_factor is {scale_factor!r}; expected a number above 0.")
        self.scale_factor = scale_factor

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Resize by the nearest pixel."""
        if sample.semantic is not None and self.scale_factor != 1:
            height, width = sample.semantic.shape
            size = (int(width * self.scale_factor + 0.5), int(height * self.scale_factor + 0.5))
            sample.semantic = cv2.resize(sample.semantic, size, interpolation=cv2.INTER_NEAREST)
        return sample


class AutoAugment:
    """Runs one of several pipelines, each as likely.

    Args:
        policies: the pipelines.

    Source: Cubuk et al., arXiv:1805.09501.
    """

    def __init__(self, *, policies: Sequence[Pipeline]) -> None:
        if not policies:
            raise ConfigError("AutoAugment.policies is empty; expected at least one list of steps.")
        self.policies = list(policies)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> list[Sample]:
        """Draw a policy and run it."""
        return self.policies[int(rng.integers(len(self.policies)))](sample, rng)
