"""Detections straight from the feature maps.

Shapes: B images of H x W.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Checked against mmdet 2.28.2 models/detectors/single_stage.py; attribute names are the checkpoint format.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detector.layers.init import InitRules, apply_rules
from detector.models.dense_heads.dense_head import DenseHead
from detector.models.detectors.base import Detector, chained, metas_of_views
from detector.structures.samples import Batch, Detections


class SingleStageDetector(Detector):
    """Backbone, neck and one dense head: RetinaNet, FCOS, SSD, YOLO and their kin."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        bbox_head: DenseHead,
        neck: nn.Module | list[nn.Module] | None = None,
        init_cfg: InitRules = None,
    ) -> None:
        """Take built parts; ``init_cfg`` holds rules for the whole model."""
        super().__init__()
        self.backbone, self.neck = backbone, chained(neck)
        self.bbox_head, self.init_cfg = bbox_head, init_cfg

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.bbox_head.num_classes

    def init_weights(self) -> None:
        """Random initial values of all parts, then the model's own rules."""
        super().init_weights()
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by the head's names; images without objects are fine."""
        assert batch.targets is not None, "training needs targets"
        return self.bbox_head.loss(
            self.bbox_head(self.extract_feat(batch.images)), batch.targets, batch.metas
        )

    @torch.no_grad()
    def predict(self, batch: Batch, *, rescale: bool = True) -> list[Detections]:
        """Detections of B images, best first within the reference's order."""
        return self.bbox_head.predict(
            self.bbox_head(self.extract_feat(batch.images)), batch.metas, rescale=rescale
        )

    @torch.no_grad()
    def predict_views(self, views: Sequence[Batch]) -> Detections:
        """Detections of one image, in original pixels, from views of it; the maps of one at a time in memory.

        Raises:
            ConfigError: the head has no test-time augmentation, or a batch holds several images.
        """
        metas = metas_of_views(views, head=self.bbox_head)
        return self.bbox_head.predict_views(
            (self.bbox_head(self.extract_feat(view.images)) for view in views), metas
        )
