"""One call of the model for a batch of test images, of one view each or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

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
