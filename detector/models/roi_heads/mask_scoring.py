"""The RoI head of Mask Scoring R-CNN: masks carry a score of their own.

Shapes: B images, L levels, K regions of the batch, N detections of one image, C classes.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Huang et al., CVPR 2019, arXiv:1903.00241. Attribute names are the checkpoint format (MMDetection 2.28,
models/roi_heads/mask_scoring_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead
from detector.models.roi_heads.extractors.extractor import RoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.mask_heads.maskiou import MaskIoUHead, iou_targets, share_inside
from detector.models.roi_heads.roi_head import (
    RoITestSpec,
    RoITrainSpec,
    input_boxes,
    instance_masks,
    paste_detections,
)
from detector.models.roi_heads.standard import MASK_CHUNK, MaskStep, StandardRoIHead
from detector.ops.roi_align import boxes_to_rois
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.targets.samplers.sampling import Sampled


@dataclass(frozen=True)
class ScoringTrainSpec(RoITrainSpec):
    """As ``RoITrainSpec``; a pixel belongs to a predicted mask when its logit exceeds ``mask_thr_binary``."""

    mask_thr_binary: float = 0.5


class MaskScoringRoIHead(StandardRoIHead):
    """As ``StandardRoIHead``, with a head that predicts each mask's IoU."""

    def __init__(
        self,
        *,
        bbox_roi_extractor: RoIExtractor,
        bbox_head: BBoxHead,
        mask_head: FCNMaskHead,
        mask_iou_head: MaskIoUHead,
        mask_roi_extractor: RoIExtractor | None = None,
        shared_head: nn.Module | None = None,
        train_cfg: ScoringTrainSpec | None = None,
        test_cfg: RoITestSpec | None = None,
    ) -> None:
        """``mask_iou_head`` scores the masks; the rest as in ``StandardRoIHead``."""
        super().__init__(
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            shared_head=shared_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.mask_iou_head = mask_iou_head
        self._threshold = 0.5 if train_cfg is None else train_cfg.mask_thr_binary

    def _mask_losses(
        self,
        head: FCNMaskHead,
        step: MaskStep,
        feats: Sequence[Tensor],
        samples: Sequence[Sampled],
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        losses = super()._mask_losses(head, step, feats, samples, targets)
        rows = torch.arange(len(step.labels), device=step.labels.device)
        own = step.logits[rows, step.labels]
        ious = self.mask_iou_head(step.features, own)[rows, step.labels]
        masks = instance_masks(targets)
        shares = [share_inside(m, s.pos_boxes, s.pos_gt_index) for s, m in zip(samples, masks, strict=True)]
        wanted = iou_targets((own > self._threshold).float(), step.wanted, torch.cat(shares))
        return losses | self.mask_iou_head.loss(ious, wanted.detach())

    def _predict_masks(
        self,
        head: FCNMaskHead,
        feats: Sequence[Tensor],
        found: list[Detections],
        metas: Sequence[ImageMeta],
        *,
        rescale: bool,
    ) -> list[Detections]:
        """As in ``StandardRoIHead``; the score of a mask is its IoU times the score of the box."""
        boxes = input_boxes(found, metas, rescale=rescale)
        rois, labels = boxes_to_rois(boxes), torch.cat([d.labels for d in found])
        masks, ious = [], []
        for part, chosen in zip(rois.split(MASK_CHUNK), labels.split(MASK_CHUNK), strict=True):
            features = self._mask_features(feats, part)
            logits = head(features)
            rows = torch.arange(len(chosen), device=chosen.device)
            own = logits[rows, torch.zeros_like(chosen) if head.class_agnostic else chosen]
            ious.append(self.mask_iou_head(features, own)[rows, chosen])
            masks.append(head.select(logits, chosen))
        threshold = self.test_cfg.mask_thr_binary
        pasted = paste_detections(torch.cat(masks), boxes, found, metas, threshold=threshold, rescale=rescale)
        scores = torch.cat(ious).split([len(d) for d in found])
        return [replace(d, mask_scores=d.scores * s) for d, s in zip(pasted, scores, strict=True)]
