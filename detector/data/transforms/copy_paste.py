"""Objects of one image pasted onto another.

Shapes: H x W both images, G boxes of the image, S of the other.
Boxes: xyxy float32 pixels of the current image.
Source: Ghiasi et al., Simple Copy-Paste, CVPR 2021, arXiv:2012.07177; behaviour checked against MMDetection
2.28.2 CopyPaste.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detector.data.transforms.cropping import mask_boxes
from detector.data.transforms.mixing import Mixing, Pool
from detector.data.transforms.sample import Sample
from detector.errors import ConfigError


class CopyPaste(Mixing):
    """Pastes some objects of another image of the same size, and takes what they cover off the masks.

    An object stays where its box moved by at most ``bbox_occluded_thr`` pixels on every side, or where more
    than ``mask_occluded_thr`` pixels of its mask are left.

    Args:
        max_num_pasted: draws between 0 and as many objects (at most all).
        bbox_occluded_thr: see above, in pixels.
        mask_occluded_thr: see above, in pixels.
        selected: whether to draw objects; False pastes all.
    """

    def __init__(
        self,
        *,
        max_num_pasted: int = 100,
        bbox_occluded_thr: float = 10,
        mask_occluded_thr: float = 300,
        selected: bool = True,
    ) -> None:
        self.max_num_pasted = max_num_pasted
        self.bbox_occluded_thr = bbox_occluded_thr
        self.mask_occluded_thr = mask_occluded_thr
        self.selected = selected

    def partners(self, pool: Pool, rng: np.random.Generator) -> list[int]:
        """One image."""
        return [int(rng.integers(len(pool)))]

    def mix(self, sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
        """Draw the objects and paste them."""
        other = others[0].copy()
        if sample.boxes is None or sample.masks is None or other.boxes is None or other.masks is None:
            raise ConfigError(
                "CopyPaste needs boxes and masks. Set with_bbox and with_mask in LoadAnnotations."
            )
        if other.pixels().shape != sample.pixels().shape:
            raise ConfigError(
                f"CopyPaste got images of {sample.pixels().shape[:2]} and {other.pixels().shape[:2]} "
                "(height, width); both need one size. End the inner dataset's pipeline with Pad(size=...)."
            )
        if self.selected:
            count = int(rng.integers(min(len(other.boxes) + 1, self.max_num_pasted)))
            chosen = np.zeros(len(other.boxes), bool)
            chosen[rng.choice(len(other.boxes), size=count, replace=False)] = True
            other.keep(chosen)
        return self.paste(sample, other) if len(other.boxes) else sample

    def paste(self, sample: Sample, other: Sample) -> Sample:
        """Paste all objects of ``other``."""
        assert sample.boxes is not None, "mix checks"
        assert sample.masks is not None, "mix checks"
        assert other.masks is not None, "mix checks"
        covered = np.any(other.masks, axis=0)
        sample.masks = np.where(covered, np.uint8(0), sample.masks)
        boxes = mask_boxes(sample.masks)
        steady = np.all(np.abs(boxes - sample.boxes) <= self.bbox_occluded_thr, axis=1)
        sample.boxes = boxes
        sample.keep(steady | (sample.masks.sum(axis=(1, 2), dtype=np.int64) > self.mask_occluded_thr))
        sample.image = np.where(covered[..., None], other.pixels(), sample.pixels())
        for name in ("boxes", "labels", "masks"):
            pair = [getattr(sample, name), getattr(other, name)]
            setattr(sample, name, np.concatenate(pair))
        return sample
