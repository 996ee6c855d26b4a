"""Instance masks straight from the feature maps, without boxes.

Shapes: B images of H x W.
Boxes: none; detections carry zeros.
Checked against mmdet 2.28.2 models/detectors/single_stage_instance_seg.py; attribute names are the
checkpoint format.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.layers.init import InitRules, apply_rules
from detector.models.dense_heads.dense_head import DenseHead
from detector.models.detectors.base import Detector
from detector.structures.samples import Batch, Detections


class SingleStageInstanceSegmentor(Detector):
    """Backbone, neck and one mask head: SOLO and SOLOv2."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        mask_head: DenseHead,
        neck: nn.Module | None = None,
        init_cfg: InitRules = None,
    ) -> None:
        """Take built parts; ``init_cfg`` holds rules for the whole model."""
        super().__init__()
        self.backbone, self.neck, self.mask_head, self.init_cfg = backbone, neck, mask_head, init_cfg

    @property
    def with_mask(self) -> bool:
        """Masks are all that is predicted."""
        return True

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.mask_head.num_classes

    def init_weights(self) -> None:
        """Random initial values of all parts, then the model's own rules."""
        super().init_weights()
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by the head's names; images without objects are fine."""
        assert batch.targets is not None, "training needs targets"
        return self.mask_head.loss(
            self.mask_head(self.extract_feat(batch.images)), batch.targets, batch.metas
        )

    @torch.no_grad()
    def predict(self, batch: Batch, *, rescale: bool = True) -> list[Detections]:
        """Masks of B images, best first, at original size with ``rescale``; needs eval mode."""
        return self.mask_head.predict(
            self.mask_head(self.extract_feat(batch.images)), batch.metas, rescale=rescale
        )
