"""The RoI head of Faster and Mask R-CNN.

Shapes: B images, L levels, K regions of the batch, N detections of one image, C classes, M mask pixels per
side.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Papers: Ren et al., arXiv:1506.01497; He et al., arXiv:1703.06870. Attribute names are the checkpoint format
(MMDetection 2.28, models/roi_heads/standard_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead, BoxTargets, box_targets
from detector.models.roi_heads.extractors.extractor import RoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.mask_heads.mask_targets import mask_targets
from detector.models.roi_heads.roi_head import (
    RoIHead,
    RoITestSpec,
    RoITrainSpec,
    best_detections,
    input_boxes,
    instance_masks,
    paste_detections,
    sample_regions,
)
from detector.ops.roi_align import boxes_to_rois, rows_per_image
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.targets.samplers.sampling import Sampled

# Regions per call of the mask head in testing: bounds (regions, C, 28, 28) to 0.4 GB with 1203 classes.
MASK_CHUNK = 100


@dataclass(frozen=True)
class BoxOutputs:
    """What the box head says of K regions.

    Attributes:
        features: (K, channels, P, P) region features.
        scores: (K, C + 1) logits.
        deltas: (K, 4 * C or 4), or None for a head without a box layer.
    """

    features: Tensor
    scores: Tensor
    deltas: Tensor | None


@dataclass(frozen=True)
class MaskStep:
    """The mask head on the K positive regions of a batch.

    Attributes:
        features: (K, channels, P, P) region features.
        logits: (K, C or 1, M, M).
        wanted: (K, M, M) 0/1.
        labels: (K,) int64.
    """

    features: Tensor
    logits: Tensor
    wanted: Tensor
    labels: Tensor


class StandardRoIHead(RoIHead):
    """One box head and, where given, one mask head on the regions of the proposals."""

    def __init__(
        self,
        *,
        bbox_roi_extractor: RoIExtractor,
        bbox_head: BBoxHead,
        mask_roi_extractor: RoIExtractor | None = None,
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

    def _box_features(self, feats: Sequence[Tensor], rois: Tensor) -> Tensor:
        x = self.bbox_roi_extractor(feats[: self.bbox_roi_extractor.num_inputs], rois)
        return x if self.shared_head is None else self.shared_head(x)

    def forward_boxes(self, feats: Sequence[Tensor], rois: Tensor) -> BoxOutputs:
        """What the box head says of regions (K, 5) on L maps (B, channels, h, w)."""
        x = self._box_features(feats, rois)
        scores, deltas = self.bbox_head(x)
        return BoxOutputs(features=x, scores=scores, deltas=deltas)

    def _mask_features(self, feats: Sequence[Tensor], rois: Tensor) -> Tensor:
        x = self.mask_roi_extractor(feats[: self.mask_roi_extractor.num_inputs], rois)
        return x if self.shared_head is None else self.shared_head(x)

    def loss(
        self,
        feats: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Targets],
        metas: Sequence[ImageMeta],
    ) -> dict[str, Tensor]:
        """Scalars loss_cls, loss_bbox, acc and, with masks, loss_mask.

        Args:
            feats: L maps (B, channels, h, w).
            proposals: B tensors (n, 4 or 5).
            targets: ground truth of B images, with masks where masks are predicted.
            metas: of the B images.
        """
        spec = self.train_cfg
        if spec is None:
            raise RuntimeError("StandardRoIHead was built without train_cfg and cannot compute a loss.")
        samples = self._sample(spec, feats, proposals, targets)
        outputs = self.forward_boxes(feats, boxes_to_rois([s.boxes for s in samples]))
        wanted = box_targets(samples, self.num_classes, spec.pos_weight)
        losses = self._box_losses(outputs, wanted, samples)
        losses.update(self._region_losses(feats, samples, metas))
        if self.mask_head is not None:
            if self.share_roi_extractor:
                features = outputs.features[wanted.pos_rows]
            else:
                features = self._mask_features(feats, boxes_to_rois([s.pos_boxes for s in samples]))
            step = self._mask_step(self.mask_head, features, samples, targets, spec)
            losses.update(self._mask_losses(self.mask_head, step, feats, samples, targets))
        return losses

    def _sample(
        self,
        spec: RoITrainSpec,
        feats: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Targets],
    ) -> list[Sampled]:
        judges = [HeadJudge(self, [x[i : i + 1].detach() for x in feats]) for i in range(len(proposals))]
        return sample_regions(spec, proposals, targets, judges)

    def _box_losses(
        self, outputs: BoxOutputs, wanted: BoxTargets, samples: Sequence[Sampled]
    ) -> dict[str, Tensor]:
        return self.bbox_head.loss(outputs.scores, outputs.deltas, wanted)

    def _region_losses(
        self, feats: Sequence[Tensor], samples: Sequence[Sampled], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """Losses of further heads on the positive regions."""
        return {}

    def _mask_step(
        self,
        head: FCNMaskHead,
        features: Tensor,
        samples: Sequence[Sampled],
        targets: Sequence[Targets],
        spec: RoITrainSpec,
    ) -> MaskStep:
        masks = instance_masks(targets)
        labels = torch.cat([s.pos_gt_labels for s in samples if s.pos_gt_labels is not None])
        wanted = mask_targets(samples, masks, spec.mask_size)
        return MaskStep(features=features, logits=head(features), wanted=wanted, labels=labels)

    def _mask_losses(
        self,
        head: FCNMaskHead,
        step: MaskStep,
        feats: Sequence[Tensor],
        samples: Sequence[Sampled],
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        return head.loss(step.logits, step.wanted, step.labels)

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
        outputs = self.forward_boxes(feats, rois)
        deltas = [None] * len(counts) if outputs.deltas is None else rows_per_image(outputs.deltas, counts)
        regions, scores = rows_per_image(rois, counts), rows_per_image(outputs.scores, counts)
        parts = zip(regions, scores, deltas, metas, strict=True)
        return [best_detections(self.bbox_head, *part, self.test_cfg, rescale=rescale) for part in parts]

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
        boxes = input_boxes(found, metas, rescale=rescale)
        masks = self.region_masks(feats, boxes_to_rois(boxes), torch.cat([d.labels for d in found]))
        threshold = self.test_cfg.mask_thr_binary
        return paste_detections(masks, boxes, found, metas, threshold=threshold, rescale=rescale)

    def region_boxes(self, scene: Sequence[Tensor], rois: Tensor, meta: ImageMeta) -> tuple[Tensor, Tensor]:
        """Boxes (K, 4 * C or 4), clipped, and probabilities (K, C + 1) of (K, 5) regions of one image."""
        outputs = self.forward_boxes(scene, rois)
        return self.bbox_head.decode(rois, outputs.scores, outputs.deltas, meta.input_hw)

    def region_masks(self, scene: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (K, M, M) of the masks of (K, 5) regions with labels (K,)."""
        assert self.mask_head is not None
        chunks = zip(rois.split(MASK_CHUNK), labels.split(MASK_CHUNK), strict=True)
        return torch.cat([self._mask_probabilities(self.mask_head, scene, *chunk) for chunk in chunks])

    def _mask_probabilities(
        self, head: FCNMaskHead, feats: Sequence[Tensor], rois: Tensor, labels: Tensor
    ) -> Tensor:
        """Masks (K, M, M) of the labels (K,) of regions (K, 5)."""
        return head.select(head(self._mask_features(feats, rois)), labels)


class HeadJudge:
    """The box head's view of candidate regions of one image."""

    def __init__(self, head: StandardRoIHead, feats: Sequence[Tensor]) -> None:
        """``feats`` are L maps (1, channels, h, w)."""
        self.head, self.feats, self.num_classes = head, feats, head.num_classes

    @torch.no_grad()
    def losses(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """Classification losses (n,) of regions (n, 4) if they had these labels (n,)."""
        outputs = self.head.forward_boxes(self.feats, boxes_to_rois([boxes]))
        return self.head.bbox_head.class_losses(outputs.scores, labels)

    @torch.no_grad()
    def predictions(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Best foreground probability (n,) of regions (n, 4), and the box (n, 4) of that class."""
        outputs = self.head.forward_boxes(self.feats, boxes_to_rois([boxes]))
        best, label = outputs.scores.softmax(dim=-1)[:, :-1].max(dim=-1)
        if outputs.deltas is None:
            return best, boxes
        deltas = outputs.deltas.reshape(len(boxes), -1, 4)
        row = torch.arange(len(boxes), device=boxes.device)
        own = deltas[:, 0] if deltas.shape[1] == 1 else deltas[row, label]
        return best, self.head.bbox_head.bbox_coder.decode(boxes, own)
