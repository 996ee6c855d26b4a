"""The RoI head of Faster and Mask R-CNN.

Shapes: B images, L levels, K regions of the batch, N detections of one image, C classes, M mask pixels per
side.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Papers: Ren et al., arXiv:1506.01497; He et al., arXiv:1703.06870. Attribute names are the checkpoint format
(MMDetection 2.28, models/roi_heads/standard_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead, box_targets
from detector.models.roi_heads.extractors.single_level import SingleRoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.mask_heads.mask_targets import mask_targets
from detector.ops.mask_paste import paste_masks
from detector.ops.nms import multiclass_nms
from detector.ops.roi_align import boxes_to_rois
from detector.structures.boxes import rescale_to_original
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.structures.specs import NmsSpec, Spec
from detector.targets.assigners.assignment import Assigner
from detector.targets.samplers.sampling import Sampled, Sampler

# Regions per call of the mask head in testing: bounds (regions, C, 28, 28) to 0.4 GB with 1203 classes.
_MASK_CHUNK = 100
NMS_05 = NmsSpec(iou_threshold=0.5)


@dataclass(frozen=True)
class RoITrainSpec(Spec):
    """How proposals become targets; ``mask_size`` pixels per side, ``pos_weight`` -1 means 1."""

    assigner: Assigner
    sampler: Sampler
    mask_size: int | tuple[int, int] = 28
    pos_weight: float = -1
    debug: bool = False


@dataclass(frozen=True)
class RoITestSpec(Spec):
    """How raw outputs become detections; ``mask_thr_binary`` is the least probability of a mask pixel."""

    score_thr: float = 0.05
    nms: NmsSpec = NMS_05
    max_per_img: int = 100
    mask_thr_binary: float = 0.5


class StandardRoIHead(nn.Module):
    """One box head and, where given, one mask head on the regions of the proposals."""

    def __init__(
        self,
        *,
        bbox_roi_extractor: SingleRoIExtractor,
        bbox_head: BBoxHead,
        mask_roi_extractor: SingleRoIExtractor | None = None,
        mask_head: FCNMaskHead | None = None,
        shared_head: nn.Module | None = None,
        train_cfg: RoITrainSpec | None = None,
        test_cfg: RoITestSpec | None = None,
    ) -> None:
        """Describe the head.

        Args:
            bbox_roi_extractor: region features for boxes.
            bbox_head: class and box.
            mask_roi_extractor: region features for masks; None shares the box extractor.
            mask_head: mask per class; None gives boxes only.
            shared_head: layers between extractor and heads.
            train_cfg: assigner, sampler and mask size; None builds a head for testing only.
            test_cfg: score threshold, suppression and counts.
        """
        super().__init__()
        self.shared_head = shared_head
        self.bbox_roi_extractor, self.bbox_head = bbox_roi_extractor, bbox_head
        self.share_roi_extractor = mask_head is not None and mask_roi_extractor is None
        if mask_head is not None:
            self.mask_roi_extractor = mask_roi_extractor or bbox_roi_extractor
        self.mask_head = mask_head
        self.train_cfg, self.test_cfg = train_cfg, test_cfg or RoITestSpec()

    @property
    def with_mask(self) -> bool:
        """Whether masks are predicted."""
        return self.mask_head is not None

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.bbox_head.num_classes

    def init_weights(self) -> None:
        """Initial values of all parts."""
        for part in (self.shared_head, self.bbox_head, self.mask_head):
            if part is not None:
                part.init_weights()  # type: ignore[operator]

    def _box_features(self, feats: Sequence[Tensor], rois: Tensor) -> Tensor:
        x = self.bbox_roi_extractor(feats[: self.bbox_roi_extractor.num_inputs], rois)
        return x if self.shared_head is None else self.shared_head(x)

    def _mask_features(self, feats: Sequence[Tensor], rois: Tensor) -> Tensor:
        x = self.mask_roi_extractor(feats[: self.mask_roi_extractor.num_inputs], rois)
        return x if self.shared_head is None else self.shared_head(x)

    def _sample(
        self, spec: RoITrainSpec, proposals: Sequence[Tensor], targets: Sequence[Targets]
    ) -> list[Sampled]:
        samples = []
        for boxes, target in zip(proposals, targets, strict=True):
            assignment = spec.assigner.assign(boxes[:, :4], target.boxes, target.ignore_boxes)
            samples.append(spec.sampler.sample(assignment, boxes[:, :4], target.boxes, target.labels))
        return samples

    def loss(
        self, feats: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """Scalars loss_cls, loss_bbox, acc and, with masks, loss_mask.

        Args:
            feats: L maps (B, channels, h, w).
            proposals: B tensors (n, 4 or 5).
            targets: ground truth of B images, with masks where masks are predicted.
        """
        spec = self.train_cfg
        if spec is None:
            raise RuntimeError("StandardRoIHead was built without train_cfg and cannot compute a loss.")
        samples = self._sample(spec, proposals, targets)
        box_features = self._box_features(feats, boxes_to_rois([s.boxes for s in samples]))
        wanted = box_targets(samples, self.num_classes, spec.pos_weight)
        scores, deltas = self.bbox_head(box_features)
        losses = self.bbox_head.loss(scores, deltas, wanted)
        if self.mask_head is not None:
            if self.share_roi_extractor:
                mask_features = box_features[wanted.pos_rows]
            else:
                mask_features = self._mask_features(feats, boxes_to_rois([s.pos_boxes for s in samples]))
            losses.update(self._mask_loss(self.mask_head, mask_features, samples, targets, spec))
        return losses

    def _mask_loss(
        self,
        head: FCNMaskHead,
        features: Tensor,
        samples: Sequence[Sampled],
        targets: Sequence[Targets],
        spec: RoITrainSpec,
    ) -> dict[str, Tensor]:
        masks = []
        for target in targets:
            if target.masks is None:
                raise RuntimeError("The model predicts masks but the targets hold none; load with_mask=True.")
            masks.append(target.masks)
        labels = torch.cat([s.pos_gt_labels for s in samples if s.pos_gt_labels is not None])
        return head.loss(head(features), mask_targets(samples, masks, spec.mask_size), labels)

    @torch.no_grad()
    def predict(
        self,
        feats: Sequence[Tensor],
        proposals: Sequence[Tensor],
        metas: Sequence[ImageMeta],
        *,
        rescale: bool,
    ) -> list[Detections]:
        """Detections of B images, best first, in original pixels with ``rescale``, else in input pixels."""
        found = self._predict_boxes(feats, proposals, metas, rescale=rescale)
        return (
            self._predict_masks(self.mask_head, feats, found, metas, rescale=rescale)
            if self.mask_head
            else found
        )

    def _predict_boxes(
        self,
        feats: Sequence[Tensor],
        proposals: Sequence[Tensor],
        metas: Sequence[ImageMeta],
        *,
        rescale: bool,
    ) -> list[Detections]:
        rois = boxes_to_rois(list(proposals))
        counts = [len(p) for p in proposals]
        scores, deltas = self.bbox_head(self._box_features(feats, rois))
        results = []
        parts = zip(rois.split(counts), scores.split(counts), deltas.split(counts), metas, strict=True)
        for image_rois, image_scores, image_deltas, meta in parts:
            boxes, probabilities = self.bbox_head.decode(
                image_rois, image_scores, image_deltas, meta.input_hw
            )
            if rescale:
                boxes = rescale_to_original(boxes.reshape(-1, 4), meta.scale_factor).reshape(boxes.shape)
            spec = self.test_cfg
            kept = multiclass_nms(
                boxes, probabilities, score_thr=spec.score_thr, spec=spec.nms, max_num=spec.max_per_img
            )
            results.append(Detections(boxes=kept[0], scores=kept[1], labels=kept[2]))
        return results

    def _predict_masks(
        self,
        head: FCNMaskHead,
        feats: Sequence[Tensor],
        found: list[Detections],
        metas: Sequence[ImageMeta],
        *,
        rescale: bool,
    ) -> list[Detections]:
        """Add masks pasted to the original (or, without ``rescale``, the unpadded input) size."""
        boxes = [
            d.boxes * d.boxes.new_tensor(m.scale_factor) if rescale else d.boxes
            for d, m in zip(found, metas, strict=True)
        ]
        rois, labels = boxes_to_rois(boxes), torch.cat([d.labels for d in found])
        chunks = zip(rois.split(_MASK_CHUNK), labels.split(_MASK_CHUNK), strict=True)
        masks = torch.cat([head.select(head(self._mask_features(feats, r)), chosen) for r, chosen in chunks])
        results = []
        for part, b, d, m in zip(masks.split([len(d) for d in found]), boxes, found, metas, strict=True):
            image_hw = m.ori_hw if rescale else m.input_hw
            # there and back, as the reference does: a mask pixel on the threshold turns on the last bit
            pasted = rescale_to_original(b, m.scale_factor) if rescale else b
            rles = paste_masks(part, pasted, image_hw, threshold=self.test_cfg.mask_thr_binary)
            results.append(replace(d, masks=rles))
        return results
