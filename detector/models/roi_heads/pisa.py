"""The RoI head of PISA: regions count by their importance for the average precision.

Shapes: B images, K regions of the batch, S_pos positive ones, C classes.
Boxes: xyxy, pixels of the padded network input.
Paper: Cao et al., CVPR 2020, arXiv:1904.04821. Attribute names are the checkpoint format (MMDetection 2.28,
models/roi_heads/pisa_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detector.losses.pisa import carl_loss, prime_weights
from detector.models.dense_heads.ssd import CarlSpec, RankSpec
from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead, BoxTargets
from detector.models.roi_heads.extractors.extractor import RoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.roi_head import RoITestSpec, RoITrainSpec
from detector.models.roi_heads.standard import BoxOutputs, StandardRoIHead
from detector.ops.iou import aligned_iou
from detector.targets.samplers.sampling import Sampled


@dataclass(frozen=True)
class PrimeTrainSpec(RoITrainSpec):
    """As ``RoITrainSpec``; None leaves the weights of positives, or the further box loss, out."""

    isr: RankSpec | None = None
    carl: CarlSpec | None = None


class PISARoIHead(StandardRoIHead):
    """As ``StandardRoIHead``, with class weights by rank and a box loss weighted by class scores."""

    def __init__(
        self,
        *,
        bbox_roi_extractor: RoIExtractor,
        bbox_head: BBoxHead,
        mask_roi_extractor: RoIExtractor | None = None,
        mask_head: FCNMaskHead | None = None,
        shared_head: nn.Module | None = None,
        train_cfg: PrimeTrainSpec | None = None,
        test_cfg: RoITestSpec | None = None,
    ) -> None:
        """Arguments as in ``StandardRoIHead``."""
        super().__init__(
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            shared_head=shared_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self._prime = train_cfg

    def _box_losses(
        self, outputs: BoxOutputs, wanted: BoxTargets, samples: Sequence[Sampled]
    ) -> dict[str, Tensor]:
        spec = self._prime
        assert spec is not None
        if spec.isr is not None and len(wanted.pos_rows):
            wanted = self._ranked(outputs, wanted, samples, spec.isr)
        losses = super()._box_losses(outputs, wanted, samples)
        if spec.carl is not None:
            losses["loss_carl"] = self._carl(outputs, wanted, spec.carl)
        return losses

    @torch.no_grad()
    def _ranked(
        self, outputs: BoxOutputs, wanted: BoxTargets, samples: Sequence[Sampled], spec: RankSpec
    ) -> BoxTargets:
        """The targets with class weights of the positives by the rank of their predicted boxes."""
        assert outputs.deltas is not None
        head, rows = self.bbox_head, wanted.pos_rows
        coder, labels = head.bbox_coder, wanted.labels[rows]
        found = coder.decode(wanted.pos_boxes, head.own_deltas(outputs.deltas, wanted))
        # through the coder, as the reference does, so that what it cannot reach counts as met
        truth = coder.decode(wanted.pos_boxes, coder.encode(wanted.pos_boxes, wanted.pos_gt_boxes))
        objects, first = [], 0
        for s in samples:
            objects.append(s.pos_gt_index + first)
            first += int(s.pos_gt_index.max()) + 1 if len(s.pos_gt_index) else 0
        weights = wanted.label_weights.clone()
        weights[rows] = prime_weights(
            weights[rows],
            aligned_iou(found, truth),
            labels,
            torch.cat(objects),
            head.class_losses(outputs.scores[rows], labels),
            k=spec.k,
            bias=spec.bias,
        )
        return replace(wanted, label_weights=weights)

    def _carl(self, outputs: BoxOutputs, wanted: BoxTargets, spec: CarlSpec) -> Tensor:
        """Box loss of the positives weighted by their class scores, divided by K."""
        if outputs.deltas is None or not len(wanted.pos_rows):
            return outputs.scores.sum() * 0
        head, rows = self.bbox_head, wanted.pos_rows
        scores = outputs.scores.softmax(dim=1)[rows, wanted.labels[rows]]
        unreduced = copy(head.loss_bbox)
        unreduced.reduction = "none"  # type: ignore[assignment]
        deltas = head.bbox_coder.encode(wanted.pos_boxes, wanted.pos_gt_boxes)
        losses = unreduced(head.own_deltas(outputs.deltas, wanted), deltas)
        return carl_loss(scores, losses, k=spec.k, bias=spec.bias, avg_factor=len(wanted.labels))
