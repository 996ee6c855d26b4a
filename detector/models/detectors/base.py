"""What every detector offers.

Shapes: B images of H x W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detector.errors import ConfigError
from detector.structures.samples import Batch, Detections, ImageMeta


def chained(neck: nn.Module | Sequence[nn.Module] | None) -> nn.Module | None:
    """One module of a neck given as a list: its parts in turn, ``neck.0``, ``neck.1`` in a checkpoint."""
    return nn.Sequential(*neck) if isinstance(neck, (list, tuple)) else neck  # type: ignore[return-value]


def metas_of_views(views: Sequence[Batch], *, head: nn.Module) -> list[ImageMeta]:
    """The meta of each view of one image.

    Args:
        views: one batch per view.
        head: what would have to merge them; one without a true ``merges_views`` is refused.

    Raises:
        ConfigError: the head has no test-time augmentation, or a batch holds several images.
    """
    if not getattr(head, "merges_views", False):
        raise ConfigError(
            f"test pipeline: found {len(views)} views per image; expected 1: test-time augmentation is not "
            f"defined for {type(head).__name__}, here as in MMDetection 2.28. Use one img_scale and "
            "flip=False in MultiScaleFlipAug."
        )
    sizes = [len(view.metas) for view in views]
    if any(size != 1 for size in sizes):
        raise ConfigError(
            f"views of an image: found batches of {max(sizes)} images; expected 1: test-time augmentation "
            "takes images one by one. Pass the views of each image by themselves."
        )
    return [view.metas[0] for view in views]


class Detector(nn.Module):
    """Backbone and neck, with ``loss`` and ``predict`` left to the wirings."""

    backbone: nn.Module
    neck: nn.Module | None

    @property
    def with_mask(self) -> bool:
        """Whether masks are predicted."""
        return False

    @property
    def num_classes(self) -> int | None:
        """Classes without background, None for proposal models."""
        return None

    def extract_feat(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives the maps of the neck, or of the backbone where there is none."""
        feats = self.backbone(images)
        return tuple(feats if self.neck is None else self.neck(feats))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by MMDetection's names; the total is the sum of those whose name holds 'loss'."""
        raise NotImplementedError

    def predict(self, batch: Batch, *, rescale: bool = True) -> list[Detections]:
        """Detections of B images, in original pixels with ``rescale``."""
        raise NotImplementedError

    def predict_views(self, views: Sequence[Batch]) -> Detections:
        """Detections of one image, in original pixels, from several views of it (test-time augmentation).

        Args:
            views: one batch of one image per view, at least one.

        Raises:
            ConfigError: it is not defined for this model, or a batch holds several images.
        """
        metas_of_views(views, head=self)
        raise NotImplementedError

    def init_weights(self) -> None:
        """Random initial values of all parts; pretrained parts are loaded by the engine afterwards."""
        for child in self.children():
            parts: Any = child if isinstance(child, nn.Sequential) else (child,)
            for part in parts:
                if hasattr(part, "init_weights"):
                    part.init_weights()
