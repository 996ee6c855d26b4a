"""What every detector offers.

Shapes: B images of H x W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detector.structures.samples import Batch, Detections


def chained(neck: nn.Module | Sequence[nn.Module] | None) -> nn.Module | None:
    """One module of a neck given as a list: its parts in turn, ``neck.0``, ``neck.1`` in a checkpoint."""
    return nn.Sequential(*neck) if isinstance(neck, (list, tuple)) else neck  # type: ignore[return-value]


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

    def init_weights(self) -> None:
        """Random initial values of all parts; pretrained parts are loaded by the engine afterwards."""
        for child in self.children():
            parts: Any = child if isinstance(child, nn.Sequential) else (child,)
            for part in parts:
                if hasattr(part, "init_weights"):
                    part.init_weights()
