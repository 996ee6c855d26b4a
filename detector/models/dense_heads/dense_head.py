"""What every dense head offers.

Shapes: B images, L levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detector.models.dense_heads.selection import Candidates, joined, suppress
from detector.structures.samples import Detections, ImageMeta, Targets


class DenseHead(nn.Module):
    """A head on the feature maps with the three verbs ``forward``, ``loss`` and ``predict``."""

    num_classes: int
    test_cfg: Any
    #: whether ``predict_views`` is defined: where MMDetection tests this head with augmentation
    merges_views = False

    def forward(self, feats: Sequence[Tensor]) -> Any:
        """L maps (B, C, h, w) give the raw outputs, nested sequences of tensors."""
        raise NotImplementedError

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """Scalars by MMDetection's names."""
        raise NotImplementedError

    def predict(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Detections]:
        """Detections of B images, in original pixels with ``rescale``, else in input pixels."""
        raise NotImplementedError

    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images before suppression; heads that merge views have it."""
        raise NotImplementedError

    @torch.no_grad()
    def predict_views(self, raws: Iterable[Any], metas: Sequence[ImageMeta]) -> Detections:
        """Detections of one image, in original pixels, best first, from several views of it.

        The candidates of all views compete in one suppression.

        Args:
            raws: raw outputs of each view, a batch of one.
            metas: of each view.
        """
        found = [self.select(raw, [meta], rescale=False)[0] for raw, meta in zip(raws, metas, strict=True)]
        return suppress(joined(found, metas), self.test_cfg)

    def init_weights(self) -> None:
        """Random initial values."""
        raise NotImplementedError
