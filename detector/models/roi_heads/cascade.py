"""The RoI head of Cascade R-CNN: stages that refine one another's boxes.

Shapes: B images, L levels, K regions of the batch, S stages, N detections of one image, C classes, M mask
pixels per side.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Cai and Vasconcelos, CVPR 2018, arXiv:1712.00726. Attribute names are the checkpoint format
(MMDetection 2.28, models/roi_heads/cascade_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead, box_targets
from detector.models.roi_heads.extractors.single_level import SingleRoIExtractor
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
    require_one_per_stage,
    sample_regions,
)
from detector.ops.roi_align import boxes_to_rois, rows_per_image
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.targets.samplers.sampling import Sampled

# Regions per call of the mask heads in testing, as in the standard head.
_MASK_CHUNK = 100


@dataclass(frozen=True)
class Scene:
    """What the stages look at.

    Attributes:
        feats: L maps (B, channels, h, w).
        semantic: (B, channels, h, w) map of a semantic branch, or None.
        overall: (B, channels, 1, 1) context of whole images, or None.
    """

    feats: Sequence[Tensor]
    semantic: Tensor | None = None
    overall: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """What one stage saw and said in training: samples of each image, logits, deltas, features it shares."""

    index: int
    spec: RoITrainSpec
    samples: list[Sampled]
    scores: Tensor
    deltas: Any
    relayed: Tensor | None = None


def added_ground_truth(spec: RoITrainSpec, target: Targets) -> int:
    """How many ground-truth boxes the sampler puts in front of the proposals of an image."""
    return len(target.boxes) if getattr(spec.sampler, "add_gt_as_proposals", False) else 0


class CascadeRoIHead(RoIHead):
    """One box head per stage and, where given, one mask head per stage."""

    def __init__(
        self,
        *,
        num_stages: int,
        stage_loss_weights: Sequence[float],
        bbox_roi_extractor: list[SingleRoIExtractor],
        bbox_head: list[BBoxHead],
        mask_roi_extractor: list[SingleRoIExtractor] | None = None,
        mask_head: list[FCNMaskHead] | None = None,
        train_cfg: list[RoITrainSpec] | None = None,
        test_cfg: RoITestSpec | None = None,
    ) -> None:
        """Describe the head; a single part in a config was repeated for every stage by ``mmdet_v2``.

        Args:
            num_stages: S.
            stage_loss_weights: factor of the losses of each stage.
            bbox_roi_extractor: S extractors of region features for boxes.
            bbox_head: S heads for class and box.
            mask_roi_extractor: S extractors for masks; None shares those for boxes.
            mask_head: S mask heads; None gives boxes only.
            train_cfg: assigner, sampler and mask size of each stage; None builds a head for testing only.
            test_cfg: score threshold, suppression and counts.

        Raises:
            ConfigError: a list has not one entry per stage.
        """
        super().__init__()
        lists: dict[str, Sequence[object] | None] = {
            "stage_loss_weights": stage_loss_weights,
            "bbox_roi_extractor": bbox_roi_extractor,
            "bbox_head": bbox_head,
            "mask_roi_extractor": mask_roi_extractor,
            "mask_head": mask_head,
            "train_cfg": train_cfg,
        }
        require_one_per_stage(num_stages, lists)
        self.num_stages, self.stage_loss_weights = num_stages, tuple(stage_loss_weights)
        self.bbox_roi_extractor, self.bbox_head = nn.ModuleList(bbox_roi_extractor), nn.ModuleList(bbox_head)
        self.mask_head: nn.Module | None = None
        if mask_head is not None:
            self.mask_head = nn.ModuleList(mask_head)
            self.mask_roi_extractor: nn.Module = (
                self.bbox_roi_extractor if mask_roi_extractor is None else nn.ModuleList(mask_roi_extractor)
            )
        self.train_cfg, self.test_cfg = train_cfg, test_cfg or RoITestSpec()

    @property
    def with_mask(self) -> bool:
        """Whether masks are predicted."""
        return self.mask_head is not None

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self._box_head(-1).num_classes

    def _box_head(self, stage: int) -> BBoxHead:
        head = self.bbox_head[stage]
        assert isinstance(head, BBoxHead)
        return head

    def _look(
        self, feats: Sequence[Tensor], targets: Sequence[Targets] | None
    ) -> tuple[Scene, dict[str, Tensor]]:
        """What the stages look at, and (with targets) the losses of the branches that made it."""
        return Scene(feats), {}

    def _box_features(self, stage: int, scene: Scene, rois: Tensor) -> Tensor:
        extractor: Any = self.bbox_roi_extractor[stage]
        return extractor(scene.feats[: extractor.num_inputs], rois)

    def _boxes(self, stage: int, scene: Scene, rois: Tensor) -> tuple[Tensor, Any, Tensor | None]:
        """Logits (K, C + 1), deltas and, where the head shares any, the features of (K, 5) regions."""
        scores, deltas = self.bbox_head[stage](self._box_features(stage, scene, rois))
        return scores, deltas, None

    def _mask_features(self, stage: int, scene: Scene, rois: Tensor) -> Tensor:
        extractor: Any = self.mask_roi_extractor[stage]  # type: ignore[index]
        return extractor(scene.feats[: extractor.num_inputs], rois)

    def _stage_masks(self, stage: int, scene: Scene, rois: Tensor) -> Tensor:
        """Mask logits (K, C or 1, M, M) of one stage for (K, 5) regions."""
        return self.mask_head[stage](self._mask_features(stage, scene, rois))  # type: ignore[index]

    def _all_masks(self, scene: Scene, rois: Tensor) -> Iterator[tuple[FCNMaskHead, Tensor]]:
        """Head and mask logits of every stage for (K, 5) regions."""
        for stage in range(self.num_stages):
            yield self.mask_head[stage], self._stage_masks(stage, scene, rois)  # type: ignore[index]

    def loss(
        self,
        feats: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Targets],
        metas: Sequence[ImageMeta],
    ) -> dict[str, Tensor]:
        """Scalars s0.loss_cls, s0.loss_bbox, s0.acc and, with masks, s0.loss_mask; s1 ... likewise.

        Args:
            feats: L maps (B, channels, h, w).
            proposals: B tensors (n, 4 or 5).
            targets: ground truth of B images, with masks where masks are predicted.
            metas: of the B images; refined boxes are clipped to their ``input_hw``.
        """
        if self.train_cfg is None:
            raise RuntimeError(
                f"{type(self).__name__} was built without train_cfg and cannot compute a loss."
            )
        scene, losses = self._look(feats, targets)
        for index, spec in enumerate(self.train_cfg):
            samples = sample_regions(spec, proposals, targets)
            rois = boxes_to_rois([s.boxes for s in samples])
            stage = Stage(index, spec, samples, *self._boxes(index, scene, rois))
            wanted = box_targets(samples, self.num_classes, spec.pos_weight)
            found = dict(self._box_head(index).loss(stage.scores, stage.deltas, wanted))
            proposals = self._refined(stage, wanted.labels, targets, metas)
            found |= self._mask_losses(stage, scene, proposals, targets)
            weight = self.stage_loss_weights[index]
            losses |= {f"s{index}.{n}": v * weight if "loss" in n else v for n, v in found.items()}
        return losses | self._last_losses(stage, scene, targets)

    @torch.no_grad()
    def _refined(
        self, stage: Stage, labels: Tensor, targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> list[Tensor]:
        """Boxes (n, 4) of each image as the stage moves them, without the ground truth among its samples.

        Background moves as its most likely class does.
        """
        head = self._box_head(stage.index)
        own = torch.where(labels == self.num_classes, head.likely_class(stage.scores), labels)
        counts = [len(s.boxes) for s in stage.samples]
        parts = zip(
            stage.samples,
            own.split(counts),
            head.split_predictions(stage.deltas, counts),
            targets,
            metas,
            strict=True,
        )
        refined = []
        for sample, image_labels, deltas, target, meta in parts:
            moved = head.regress_by_class(sample.boxes, image_labels, deltas, meta.input_hw)
            keep = torch.ones_like(image_labels, dtype=torch.bool)
            keep[: len(sample.pos_index)] = sample.pos_index >= added_ground_truth(stage.spec, target)
            refined.append(moved[keep])
        return refined

    def _mask_losses(
        self, stage: Stage, scene: Scene, refined: Sequence[Tensor], targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """loss_mask of one stage; empty without masks."""
        if self.mask_head is None:
            return {}
        rois = boxes_to_rois([s.pos_boxes for s in stage.samples])
        head: Any = self.mask_head[stage.index]  # type: ignore[index]
        return mask_losses(head, self._stage_masks(stage.index, scene, rois), stage, targets)

    def _last_losses(self, stage: Stage, scene: Scene, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Losses after all stages."""
        return {}

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
        scene = self.look(feats)
        found = self._predict_boxes(scene, proposals, metas, rescale=rescale)
        return self._predict_masks(scene, found, metas, rescale=rescale) if self.with_mask else found

    def _predict_boxes(
        self, scene: Scene, proposals: Sequence[Tensor], metas: Sequence[ImageMeta], *, rescale: bool
    ) -> list[Detections]:
        head, spec = self._box_head(-1), self.test_cfg
        regions = self._last_regions(scene, proposals, metas)
        return [
            best_detections(head, *part, meta, spec, rescale=rescale)
            for part, meta in zip(regions, metas, strict=True)
        ]

    def _last_regions(
        self, scene: Scene, proposals: Sequence[Tensor], metas: Sequence[ImageMeta]
    ) -> list[tuple[Tensor, Tensor, Any]]:
        """Per image the last stage's regions (n, 5), the mean logits of the stages, the last one's deltas."""
        counts, boxes, total = [len(p) for p in proposals], list(proposals), None
        for stage in range(self.num_stages):
            head, rois = self._box_head(stage), boxes_to_rois(boxes)
            scores, deltas, _ = self._boxes(stage, scene, rois)
            total = scores if total is None else total + scores
            parts = list(head.split_predictions(deltas, counts))
            if stage < self.num_stages - 1:
                likely = rows_per_image(head.likely_class(scores), counts)
                own = rows_per_image(rois[:, 1:], counts)
                boxes = [
                    head.regress_by_class(b, label, d, m.input_hw)
                    for b, label, d, m in zip(own, likely, parts, metas, strict=True)
                ]
        assert total is not None
        mean = rows_per_image(total / self.num_stages, counts)
        return list(zip(rows_per_image(rois, counts), mean, parts, strict=True))

    def look(self, feats: Sequence[Tensor]) -> Scene:
        """What the stages look at, of L maps (B, channels, h, w)."""
        return self._look(feats, None)[0]

    def region_boxes(self, scene: Scene, rois: Tensor, meta: ImageMeta) -> tuple[Tensor, Tensor]:
        """Boxes (K, 4 * C or 4), clipped, and probabilities (K, C + 1) of (K, 5) regions of one image."""
        ((last, scores, deltas),) = self._last_regions(scene, [rois[:, 1:]], [meta])
        return self._box_head(-1).decode(last, scores, deltas, meta.input_hw)

    def region_masks(self, scene: Scene, rois: Tensor, labels: Tensor) -> Tensor:
        """Mean probabilities (K, M, M) of the stages for (K, 5) regions with labels (K,)."""
        chunks = []
        for part, chosen in zip(rois.split(_MASK_CHUNK), labels.split(_MASK_CHUNK), strict=True):
            stages = [head.select(logits, chosen) for head, logits in self._all_masks(scene, part)]
            chunks.append(torch.stack(stages).mean(dim=0))
        return torch.cat(chunks)

    def _predict_masks(
        self, scene: Scene, found: list[Detections], metas: Sequence[ImageMeta], *, rescale: bool
    ) -> list[Detections]:
        """Add the mean masks of the stages at the original (or, without ``rescale``, the input) size."""
        boxes = input_boxes(found, metas, rescale=rescale)
        masks = self.region_masks(scene, boxes_to_rois(boxes), torch.cat([d.labels for d in found]))
        threshold = self.test_cfg.mask_thr_binary
        return paste_detections(masks, boxes, found, metas, threshold=threshold, rescale=rescale)


def mask_losses(
    head: FCNMaskHead, logits: Tensor, stage: Stage, targets: Sequence[Targets]
) -> dict[str, Tensor]:
    """loss_mask of logits (S_pos of the batch, C or 1, M, M) of the stage's positive regions."""
    labels = torch.cat([s.pos_gt_labels for s in stage.samples if s.pos_gt_labels is not None])
    wanted = mask_targets(stage.samples, instance_masks(targets), stage.spec.mask_size)
    return head.loss(logits, wanted, labels)
