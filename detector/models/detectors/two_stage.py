"""Proposals first, then a class, a box and perhaps a mask for each.

Shapes: B images of H x W, n proposals of one image.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Checked against mmdet 2.28.2 models/detectors/two_stage.py; attribute names are the checkpoint format.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detector.layers.init import InitRules, apply_rules
from detector.models.dense_heads.rpn import RPNHead
from detector.models.detectors.base import Detector, chained, metas_of_views
from detector.models.roi_heads.roi_head import RoIHead
from detector.structures.samples import Batch, Detections


class TwoStageDetector(Detector):
    """Backbone, neck, RPN and RoI head: Faster R-CNN, Mask R-CNN and their kin."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        roi_head: RoIHead,
        rpn_head: RPNHead,
        neck: nn.Module | None = None,
        init_cfg: InitRules = None,
    ) -> None:
        """Take built parts; ``init_cfg`` holds rules for the whole model."""
        super().__init__()
        self.backbone, self.neck = backbone, chained(neck)
        self.rpn_head, self.roi_head, self.init_cfg = rpn_head, roi_head, init_cfg

    @property
    def with_mask(self) -> bool:
        """Whether masks are predicted."""
        return self.roi_head.with_mask

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.roi_head.num_classes

    def init_weights(self) -> None:
        """Random initial values of all parts, then the model's own rules."""
        super().init_weights()
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """loss_rpn_cls, loss_rpn_bbox, loss_cls, loss_bbox, acc and loss_mask, scalars.

        Images without objects are fine.
        """
        assert batch.targets is not None, "training needs targets"
        feats = self.extract_feat(batch.images)
        raw = self.rpn_head(feats)
        losses = self.rpn_head.loss(raw, batch.targets, batch.metas)
        proposals = self.rpn_head.propose(raw, batch.metas, self.rpn_head.proposal_cfg)
        return losses | self.roi_head.loss(feats, proposals, batch.targets, batch.metas)

    @torch.no_grad()
    def predict(self, batch: Batch, *, rescale: bool = True) -> list[Detections]:
        """Detections of B images, best first; masks at original size with ``rescale``."""
        feats = self.extract_feat(batch.images)
        proposals = self.rpn_head.propose(self.rpn_head(feats), batch.metas)
        return self.roi_head.predict(feats, proposals, batch.metas, rescale=rescale)

    @torch.no_grad()
    def predict_views(self, views: Sequence[Batch]) -> Detections:
        """Detections of one image, in original pixels, from views of it; the maps of all stay in memory.

        Raises:
            ConfigError: the RoI head has no test-time augmentation, or a batch holds several images.
        """
        metas = metas_of_views(views, head=self.roi_head)
        feats = [self.extract_feat(view.images) for view in views]
        proposals = self.rpn_head.propose_views((self.rpn_head(maps) for maps in feats), metas)
        return self.roi_head.predict_views(feats, proposals[:, :4], metas)


class RPN(Detector):
    """Proposals only."""

    merges_views = True

    def __init__(
        self,
        *,
        backbone: nn.Module,
        rpn_head: RPNHead,
        neck: nn.Module | None = None,
        init_cfg: InitRules = None,
    ) -> None:
        """Take built parts."""
        super().__init__()
        self.backbone, self.neck, self.rpn_head, self.init_cfg = backbone, chained(neck), rpn_head, init_cfg

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """loss_rpn_cls and loss_rpn_bbox, scalars."""
        assert batch.targets is not None, "training needs targets"
        return self.rpn_head.loss(self.rpn_head(self.extract_feat(batch.images)), batch.targets, batch.metas)

    @torch.no_grad()
    def predict(self, batch: Batch, *, rescale: bool = True) -> list[Detections]:
        """Proposals as detections of label 0."""
        proposals = self.rpn_head.propose(self.rpn_head(self.extract_feat(batch.images)), batch.metas)
        results = []
        for found, meta in zip(proposals, batch.metas, strict=True):
            boxes = found[:, :4] / found.new_tensor(meta.scale_factor) if rescale else found[:, :4]
            results.append(as_detections(boxes, found[:, 4]))
        return results

    @torch.no_grad()
    def predict_views(self, views: Sequence[Batch]) -> Detections:
        """Proposals of one image, in original pixels, as detections of label 0, from views of it.

        Raises:
            ConfigError: a batch holds several images.
        """
        metas = metas_of_views(views, head=self)
        raws = (self.rpn_head(self.extract_feat(view.images)) for view in views)
        found = self.rpn_head.propose_views(raws, metas)
        return as_detections(found[:, :4], found[:, 4])


def as_detections(boxes: Tensor, scores: Tensor) -> Detections:
    """Proposals (K, 4) and (K,) as detections of label 0."""
    labels = torch.zeros_like(scores, dtype=torch.long)
    return Detections(boxes=boxes, scores=scores, labels=labels)
