"""The RoI head of SCNet: one mask head after the cascade, fed by its last stage and by whole images.

Shapes: B images, L levels, K regions of the batch, C classes, M mask pixels per side.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Vu et al., AAAI 2021, arXiv:2012.10150. Attribute names are the checkpoint format (MMDetection 2.28,
models/roi_heads/scnet_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.models.roi_heads.bbox_heads.scnet import SCNetBBoxHead
from detector.models.roi_heads.cascade import CascadeRoIHead, Scene, Stage, mask_losses
from detector.models.roi_heads.extractors.single_level import SingleRoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.mask_heads.feature_relay import FeatureRelayHead
from detector.models.roi_heads.mask_heads.fused_semantic import FusedSemanticHead, add_pooled
from detector.models.roi_heads.mask_heads.global_context import GlobalContextHead
from detector.models.roi_heads.roi_head import RoITestSpec, RoITrainSpec
from detector.ops.roi_align import boxes_to_rois
from detector.structures.samples import Targets


class SCNetRoIHead(CascadeRoIHead):
    """Box stages as in ``CascadeRoIHead``; masks once, on the last stage's regions."""

    def __init__(
        self,
        *,
        num_stages: int,
        stage_loss_weights: Sequence[float],
        bbox_roi_extractor: list[SingleRoIExtractor],
        bbox_head: list[SCNetBBoxHead],
        mask_roi_extractor: SingleRoIExtractor,
        mask_head: FCNMaskHead,
        semantic_roi_extractor: SingleRoIExtractor | None = None,
        semantic_head: FusedSemanticHead | None = None,
        feat_relay_head: FeatureRelayHead | None = None,
        glbctx_head: GlobalContextHead | None = None,
        train_cfg: list[RoITrainSpec] | None = None,
        test_cfg: RoITestSpec | None = None,
    ) -> None:
        """Describe the head; the rest as in ``CascadeRoIHead``.

        Args:
            num_stages: as in ``CascadeRoIHead``.
            stage_loss_weights: of the stages; the masks' weight is their sum.
            bbox_roi_extractor: as in ``CascadeRoIHead``.
            bbox_head: as in ``CascadeRoIHead``.
            mask_roi_extractor: region features for masks.
            mask_head: the only mask head.
            semantic_roi_extractor: region features of the semantic branch.
            semantic_head: the semantic branch; None does without.
            feat_relay_head: from the last box head's features to the mask head; None does without.
            glbctx_head: the context of whole images; None does without.
            train_cfg: as in ``CascadeRoIHead``.
            test_cfg: as in ``CascadeRoIHead``.

        Raises:
            ConfigError: a semantic head without an extractor.
        """
        super().__init__(
            num_stages=num_stages,
            stage_loss_weights=stage_loss_weights,
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=list(bbox_head),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        if semantic_head is not None and semantic_roi_extractor is None:
            raise ConfigError("semantic_roi_extractor: missing; a semantic_head needs one.")
        self.mask_roi_extractor, self.mask_head = mask_roi_extractor, mask_head
        self.semantic_roi_extractor, self.semantic_head = semantic_roi_extractor, semantic_head
        self.feat_relay_head, self.glbctx_head = feat_relay_head, glbctx_head

    def _look(
        self, feats: Sequence[Tensor], targets: Sequence[Targets] | None
    ) -> tuple[Scene, dict[str, Tensor]]:
        semantic, overall, losses = None, None, {}
        if self.semantic_head is not None:
            logits, semantic = self.semantic_head(feats)
            if targets is not None:
                losses["loss_semantic_seg"] = self.semantic_head.loss(logits, targets)
        if self.glbctx_head is not None:
            logits, overall = self.glbctx_head(feats)
            if targets is not None:
                losses["loss_glbctx"] = self.glbctx_head.loss(logits, targets)
        return Scene(feats, semantic, overall), losses

    def _fused(self, features: Tensor, scene: Scene, rois: Tensor) -> Tensor:
        """Add what the semantic branch and the whole image know of each region."""
        if scene.semantic is not None and self.semantic_roi_extractor is not None:
            features = add_pooled(features, self.semantic_roi_extractor([scene.semantic], rois))
        return features if scene.overall is None else features + scene.overall[rois[:, 0].long()]

    def _box_features(self, stage: int, scene: Scene, rois: Tensor) -> Tensor:
        return self._fused(super()._box_features(stage, scene, rois), scene, rois)

    def _boxes(self, stage: int, scene: Scene, rois: Tensor) -> tuple[Tensor, Any, Tensor | None]:
        head: Any = self.bbox_head[stage]
        scores, deltas, shared = head.forward_with_shared(self._box_features(stage, scene, rois))
        return scores, deltas, shared

    def _masks(self, scene: Scene, rois: Tensor, shared: Tensor | None) -> Tensor:
        """Logits (K, C, M, M) of (K, 5) regions with the features (K, width) of the last box head."""
        extractor: Any = self.mask_roi_extractor
        features = self._fused(extractor(scene.feats[: extractor.num_inputs], rois), scene, rois)
        if self.feat_relay_head is not None and shared is not None:
            features = features + self.feat_relay_head(shared)
        return self.mask_head(features)  # type: ignore[misc]

    def _all_masks(self, scene: Scene, rois: Tensor) -> Iterator[tuple[FCNMaskHead, Tensor]]:
        _, _, shared = self._boxes(self.num_stages - 1, scene, rois)
        head: Any = self.mask_head
        yield head, self._masks(scene, rois, shared)

    def _mask_losses(
        self, stage: Stage, scene: Scene, refined: Sequence[Tensor], targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        return {}

    def _last_losses(self, stage: Stage, scene: Scene, targets: Sequence[Targets]) -> dict[str, Tensor]:
        rois = boxes_to_rois([s.pos_boxes for s in stage.samples])
        assert stage.relayed is not None
        parts = stage.relayed.split([len(s.boxes) for s in stage.samples])
        shared = torch.cat([p[: len(s.pos_index)] for p, s in zip(parts, stage.samples, strict=True)])
        head: Any = self.mask_head
        losses = mask_losses(head, self._masks(scene, rois, shared), stage, targets)
        weight = sum(self.stage_loss_weights)
        return {name: weight * value for name, value in losses.items()}
