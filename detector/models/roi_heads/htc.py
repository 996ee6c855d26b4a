"""The RoI head of Hybrid Task Cascade: masks on refined boxes, mask stages in a row, a semantic branch.

Shapes: B images, L levels, K regions of the batch, C classes, M mask pixels per side.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Chen et al., CVPR 2019, arXiv:1901.07518. Attribute names are the checkpoint format (MMDetection 2.28,
models/roi_heads/htc_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from detector.errors import ConfigError
from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead
from detector.models.roi_heads.cascade import CascadeRoIHead, Scene, Stage
from detector.models.roi_heads.extractors.single_level import SingleRoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.mask_heads.fused_semantic import FusedSemanticHead, add_pooled
from detector.models.roi_heads.mask_heads.htc import HTCMaskHead
from detector.models.roi_heads.roi_head import RoITestSpec, RoITrainSpec, sample_regions
from detector.structures.samples import Targets


class HybridTaskCascadeRoIHead(CascadeRoIHead):
    """``CascadeRoIHead`` whose stages help one another."""

    def __init__(
        self,
        *,
        num_stages: int,
        stage_loss_weights: Sequence[float],
        bbox_roi_extractor: list[SingleRoIExtractor],
        bbox_head: list[BBoxHead],
        mask_roi_extractor: list[SingleRoIExtractor] | None = None,
        mask_head: list[HTCMaskHead] | None = None,
        semantic_roi_extractor: SingleRoIExtractor | None = None,
        semantic_head: FusedSemanticHead | None = None,
        semantic_fusion: Sequence[str] = ("bbox", "mask"),
        interleaved: bool = True,
        mask_info_flow: bool = True,
        train_cfg: list[RoITrainSpec] | None = None,
        test_cfg: RoITestSpec | None = None,
    ) -> None:
        """Describe the head; the rest as in ``CascadeRoIHead``.

        Args:
            num_stages: as in ``CascadeRoIHead``.
            stage_loss_weights: as in ``CascadeRoIHead``.
            bbox_roi_extractor: as in ``CascadeRoIHead``.
            bbox_head: as in ``CascadeRoIHead``.
            mask_roi_extractor: as in ``CascadeRoIHead``.
            mask_head: as in ``CascadeRoIHead``.
            semantic_roi_extractor: region features of the semantic branch.
            semantic_head: the semantic branch; None does without.
            semantic_fusion: which of 'bbox' and 'mask' get the semantic features.
            interleaved: a stage's masks train on the boxes its box head refined.
            mask_info_flow: each mask stage sees the hidden features of the one before.
            train_cfg: as in ``CascadeRoIHead``.
            test_cfg: as in ``CascadeRoIHead``.

        Raises:
            ConfigError: a semantic head without an extractor.
        """
        super().__init__(
            num_stages=num_stages,
            stage_loss_weights=stage_loss_weights,
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=None if mask_head is None else list(mask_head),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        if semantic_head is not None and semantic_roi_extractor is None:
            raise ConfigError("semantic_roi_extractor: missing; a semantic_head needs one.")
        self.semantic_roi_extractor, self.semantic_head = semantic_roi_extractor, semantic_head
        self.semantic_fusion = tuple(semantic_fusion)
        self.interleaved, self.mask_info_flow = interleaved, mask_info_flow

    def _look(
        self, feats: Sequence[Tensor], targets: Sequence[Targets] | None
    ) -> tuple[Scene, dict[str, Tensor]]:
        if self.semantic_head is None:
            return Scene(feats), {}
        logits, semantic = self.semantic_head(feats)
        losses = {} if targets is None else {"loss_semantic_seg": self.semantic_head.loss(logits, targets)}
        return Scene(feats, semantic), losses

    def _fused(self, kind: str, features: Tensor, scene: Scene, rois: Tensor) -> Tensor:
        if scene.semantic is None or self.semantic_roi_extractor is None or kind not in self.semantic_fusion:
            return features
        return add_pooled(features, self.semantic_roi_extractor([scene.semantic], rois))

    def _box_features(self, stage: int, scene: Scene, rois: Tensor) -> Tensor:
        return self._fused("bbox", super()._box_features(stage, scene, rois), scene, rois)

    def _mask_features(self, stage: int, scene: Scene, rois: Tensor) -> Tensor:
        return self._fused("mask", super()._mask_features(stage, scene, rois), scene, rois)

    def _stage_masks(self, stage: int, scene: Scene, rois: Tensor) -> Tensor:
        heads: Any = self.mask_head
        features, before = self._mask_features(stage, scene, rois), None
        for i in range(stage if self.mask_info_flow else 0):
            before = heads[i].hidden_with(features, before)
        return heads[stage].logits(heads[stage].hidden_with(features, before))

    def _all_masks(self, scene: Scene, rois: Tensor) -> Iterator[tuple[FCNMaskHead, Tensor]]:
        heads: Any = self.mask_head
        features, before = self._mask_features(self.num_stages - 1, scene, rois), None
        for head in heads:
            hidden = head.hidden_with(features, before)
            before = hidden if self.mask_info_flow else None
            yield head, head.logits(hidden)

    def _mask_losses(
        self, stage: Stage, scene: Scene, refined: Sequence[Tensor], targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        if self.with_mask and self.interleaved:
            stage = replace(stage, samples=sample_regions(stage.spec, refined, targets))
        return super()._mask_losses(stage, scene, refined, targets)
