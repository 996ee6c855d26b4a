"""One call of the model for a batch of test images, of one view each or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from detector.structures.samples import Batch, Detections


def predict_images(model: nn.Module, views: Sequence[Batch]) -> list[Detections]:
    """Detections of B images in original pixels.

    Args:
        model: detector in eval mode.
        views: one batch of the same B images per view, on the model's device. Several (test-time
            augmentation) are merged image by image.

    Raises:
        ConfigError: several views, and a model for which that is not defined.
    """
    detector = cast(Any, model)
    if len(views) == 1:
        found: list[Detections] = detector.predict(views[0], rescale=True)
        return found
    return [detector.predict_views([image_of(view, i) for view in views]) for i in range(len(views[0].metas))]


def image_of(batch: Batch, row: int) -> Batch:
    """One image of a test batch as a batch of its own."""
    proposals = None if batch.proposals is None else batch.proposals[row : row + 1]
    return replace(
        batch, images=batch.images[row : row + 1], metas=batch.metas[row : row + 1], proposals=proposals
    )


def finite(found: Detections) -> tuple[Detections, int]:
    """Detections without those that have a NaN or an infinity, and how many these were.

    An untrained YOLOX gives such boxes: ``exp`` of what its head says about a size overflows while its
    running statistics are still far from the data's.
    """
    good = torch.isfinite(found.boxes).all(1) & torch.isfinite(found.scores)
    if found.mask_scores is not None:
        good &= torch.isfinite(found.mask_scores)
    if bool(good.all()):
        return found, 0
    rows = good.nonzero()[:, 0]
    kept = replace(
        found,
        boxes=found.boxes[rows],
        scores=found.scores[rows],
        labels=found.labels[rows],
        masks=None if found.masks is None else [found.masks[i] for i in rows.tolist()],
        mask_scores=None if found.mask_scores is None else found.mask_scores[rows],
    )
    return kept, len(found) - len(kept)
