"""The RoI head of Dynamic R-CNN: the demands on proposals rise as the proposals get better.

Shapes: B images, K regions of the batch.
Boxes: xyxy, pixels of the padded network input.
Paper: Zhang et al., ECCV 2020, arXiv:2004.06002. Attribute names are the checkpoint format (MMDetection 2.28,
models/roi_heads/dynamic_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.losses.smooth_l1 import SmoothL1Loss
from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead, BoxTargets
from detector.models.roi_heads.extractors.extractor import RoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.roi_head import RoITestSpec, RoITrainSpec
from detector.models.roi_heads.standard import BoxOutputs, StandardRoIHead
from detector.structures.samples import Targets
from detector.structures.specs import Spec
from detector.targets.assigners.max_iou import MaxIoUAssigner
from detector.targets.samplers.sampling import Sampled

# A smaller median of the box targets says nothing; beta then stays.
_LEAST_BETA = 1e-15


@dataclass(frozen=True)
class DynamicSpec(Spec):
    """How the demands follow the proposals.

    Attributes:
        iou_topk: the rank of the IoU looked at in each image.
        beta_topk: the rank, per image, of the box target looked at in each batch.
        update_iter_interval: steps between changes.
        initial_iou: least IoU a positive proposal ever needs.
        initial_beta: largest beta of the box loss.
    """

    iou_topk: int
    beta_topk: int
    update_iter_interval: int
    initial_iou: float
    initial_beta: float


@dataclass(frozen=True, kw_only=True)
class DynamicTrainSpec(RoITrainSpec):
    """As ``RoITrainSpec``, with the rule of change."""

    dynamic_rcnn: DynamicSpec


class DynamicRoIHead(StandardRoIHead):
    """Moves the assigner's IoU threshold and the box loss's beta every so many training steps.

    What it remembers between changes is not part of the weights, as in the reference; a run's checkpoint
    holds it beside them (``training_state``).
    """

    def __init__(
        self,
        *,
        bbox_roi_extractor: RoIExtractor,
        bbox_head: BBoxHead,
        mask_roi_extractor: RoIExtractor | None = None,
        mask_head: FCNMaskHead | None = None,
        shared_head: nn.Module | None = None,
        train_cfg: DynamicTrainSpec | None = None,
        test_cfg: RoITestSpec | None = None,
    ) -> None:
        """Arguments as in ``StandardRoIHead``; the box loss must be smooth L1."""
        super().__init__(
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            shared_head=shared_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        if not isinstance(bbox_head.loss_bbox, SmoothL1Loss):
            found = type(bbox_head.loss_bbox).__name__
            raise ConfigError(
                f"DynamicRoIHead: loss_bbox is {found}; expected SmoothL1Loss, whose beta moves."
            )
        if train_cfg is not None and not isinstance(train_cfg.assigner, MaxIoUAssigner):
            found = type(train_cfg.assigner).__name__
            raise ConfigError(f"DynamicRoIHead: assigner is {found}; expected MaxIoUAssigner.")
        self.dynamic = None if train_cfg is None else train_cfg.dynamic_rcnn
        self.iou_history: list[float] = []
        self.beta_history: list[float] = []

    def _sample(
        self,
        spec: RoITrainSpec,
        feats: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Targets],
    ) -> list[Sampled]:
        samples = super()._sample(spec, feats, proposals, targets)
        self._record_overlaps(spec, proposals, targets)
        return samples

    def _record_overlaps(
        self, spec: RoITrainSpec, proposals: Sequence[Tensor], targets: Sequence[Targets]
    ) -> None:
        """Remember the ``iou_topk``-th largest overlap, averaged over the images."""
        assert self.dynamic is not None
        found = []
        added = bool(getattr(spec.sampler, "add_gt_as_proposals", False))
        for boxes, target in zip(proposals, targets, strict=True):
            overlap = spec.assigner.assign(boxes[:, :4], target.boxes, target.ignore_boxes).overlap
            if added:
                overlap = torch.cat((overlap.new_ones(len(target.boxes)), overlap))
            if len(overlap):
                found.append(float(overlap.topk(min(self.dynamic.iou_topk, len(overlap))).values[-1]))
        self.iou_history.append(fmean(found) if found else 0.0)

    def _box_losses(
        self, outputs: BoxOutputs, wanted: BoxTargets, samples: Sequence[Sampled]
    ) -> dict[str, Tensor]:
        assert self.dynamic is not None
        if len(wanted.pos_rows):
            deltas = self.bbox_head.bbox_coder.encode(wanted.pos_boxes, wanted.pos_gt_boxes)
            size = deltas[:, :2].abs().mean(dim=1)
            rank = min(self.dynamic.beta_topk * len(samples), len(size))
            self.beta_history.append(float(size.kthvalue(rank).values))
        losses = super()._box_losses(outputs, wanted, samples)
        if len(self.iou_history) >= self.dynamic.update_iter_interval:
            self._change_demands(self.dynamic)
        return losses

    def training_state(self) -> dict[str, object]:
        """What a resumed training needs beside the weights: demands, and what the next ones come from."""
        if self.train_cfg is None:
            return {}
        assigner, loss = self._moving_parts()
        return {
            "iou_history": list(self.iou_history),
            "beta_history": list(self.beta_history),
            "threshold": assigner.pos_iou_thr,
            "min_threshold": assigner.min_pos_iou,
            "neg_range": assigner.neg_range,
            "beta": loss.beta,
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``training_state`` gave."""
        if self.train_cfg is None or not state:
            return
        assigner, loss = self._moving_parts()
        self.iou_history, self.beta_history = list(state["iou_history"]), list(state["beta_history"])
        assigner.pos_iou_thr, assigner.min_pos_iou = state["threshold"], state["min_threshold"]
        assigner.neg_range, loss.beta = tuple(state["neg_range"]), state["beta"]

    def _moving_parts(self) -> tuple[MaxIoUAssigner, SmoothL1Loss]:
        """The assigner and the box loss, whose settings change during a training."""
        assert self.train_cfg is not None
        assigner, loss = self.train_cfg.assigner, self.bbox_head.loss_bbox
        assert isinstance(assigner, MaxIoUAssigner)
        assert isinstance(loss, SmoothL1Loss)
        return assigner, loss

    def _change_demands(self, rule: DynamicSpec) -> None:
        """Set threshold and beta from what was remembered, and forget it."""
        assigner, loss = self._moving_parts()
        threshold = max(rule.initial_iou, fmean(self.iou_history))
        assigner.pos_iou_thr = assigner.min_pos_iou = threshold
        assigner.neg_range = (0.0, threshold)
        beta = median(self.beta_history) if self.beta_history else 0.0
        if beta >= _LEAST_BETA:
            loss.beta = min(rule.initial_beta, beta)
        self.iou_history, self.beta_history = [], []
