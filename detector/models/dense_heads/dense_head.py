"""What every dense head offers.

Shapes: B images, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detector.structures.samples import Detections, ImageMeta, Targets


class DenseHead(nn.Module):
    """A head on the feature maps with the three verbs ``forward``, ``loss`` and ``predict``."""

    num_classes: int

    def forward(self, feats: Sequence[Tensor]) -> Any:
        """L maps (B, C, h, w) give the raw outputs, nested sequences of tensors."""
        raise NotImplementedError

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """Scalars by MMDetection's names."""
        raise NotImplementedError

    def predict(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Detections]:
        """Detections of B images, in original pixels with ``rescale``, else in input pixels."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Random initial values."""
        raise NotImplementedError
