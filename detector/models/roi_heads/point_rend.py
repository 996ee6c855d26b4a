"""The RoI head of PointRend: coarse masks, refined where they are least certain.

Shapes: B images, L levels, K regions of the batch, C classes, P points of each region.
Boxes: regions are (K, 5): image index, then xyxy in pixels of the padded network input.
Paper: Kirillov et al., CVPR 2020, arXiv:1912.08193. Attribute names are the checkpoint format (MMDetection
2.28, models/roi_heads/point_rend_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead
from detector.models.roi_heads.extractors.extractor import RoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.mask_heads.mask_point import MaskPointHead, uncertain_pixels, uncertain_points
from detector.models.roi_heads.roi_head import RoITestSpec, RoITrainSpec, instance_masks
from detector.models.roi_heads.standard import MaskStep, StandardRoIHead
from detector.ops.point_sample import point_sample, region_to_map, sample_regions
from detector.ops.roi_align import boxes_to_rois
from detector.structures.samples import Targets
from detector.targets.samplers.sampling import Sampled


@dataclass(frozen=True)
class PointTrainSpec(RoITrainSpec):
    """As ``RoITrainSpec``, with the points of ``uncertain_points``."""

    num_points: int = 14 * 14
    oversample_ratio: float = 3
    importance_sample_ratio: float = 0.75


@dataclass(frozen=True)
class PointTestSpec(RoITestSpec):
    """As ``RoITestSpec``; each step grows the mask ``scale_factor`` times and refines so many points."""

    subdivision_steps: int = 5
    subdivision_num_points: int = 28 * 28
    scale_factor: int = 2


class PointRendRoIHead(StandardRoIHead):
    """As ``StandardRoIHead``, with a head on points."""

    def __init__(
        self,
        *,
        bbox_roi_extractor: RoIExtractor,
        bbox_head: BBoxHead,
        mask_head: FCNMaskHead,
        point_head: MaskPointHead,
        mask_roi_extractor: RoIExtractor | None = None,
        shared_head: nn.Module | None = None,
        train_cfg: PointTrainSpec | None = None,
        test_cfg: PointTestSpec | None = None,
    ) -> None:
        """``point_head`` refines the masks; the rest as in ``StandardRoIHead``."""
        test_cfg = test_cfg or PointTestSpec()
        super().__init__(
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            shared_head=shared_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.point_head, self._points, self._steps = point_head, train_cfg, test_cfg

    def _fine_features(self, feats: Sequence[Tensor], rois: Tensor, points: Tensor) -> Tensor:
        """Features (K, channels, P) of all levels that masks use."""
        strides = self.mask_roi_extractor.featmap_strides
        maps = zip(feats[: len(strides)], strides, strict=True)
        return torch.cat([sample_regions(x, rois, points, scale=1 / s) for x, s in maps], dim=1)

    def _mask_losses(
        self,
        head: FCNMaskHead,
        step: MaskStep,
        feats: Sequence[Tensor],
        samples: Sequence[Sampled],
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        losses = super()._mask_losses(head, step, feats, samples, targets)
        spec = self._points
        assert spec is not None
        with torch.no_grad():
            points = uncertain_points(
                step.logits,
                step.labels,
                num_points=spec.num_points,
                oversample_ratio=spec.oversample_ratio,
                importance_sample_ratio=spec.importance_sample_ratio,
            )
            wanted = self._wanted(points, samples, instance_masks(targets))
        rois = boxes_to_rois([s.pos_boxes for s in samples])
        logits = self.point_head(self._fine_features(feats, rois, points), point_sample(step.logits, points))
        return losses | self.point_head.loss(logits, wanted, step.labels)

    def _wanted(self, points: Tensor, samples: Sequence[Sampled], masks: Sequence[Tensor]) -> Tensor:
        """Values (K, P) of the ground-truth masks at points (K, P, 2) of the positive regions."""
        found = []
        parts = points.split([len(s.pos_boxes) for s in samples])
        for part, s, mask in zip(parts, samples, masks, strict=True):
            if not len(part):
                found.append(part[..., 0])
                continue
            own = mask[s.pos_gt_index][:, None].to(part)
            places = region_to_map(part, s.pos_boxes, (own.shape[2], own.shape[3]))
            found.append(point_sample(own, places)[:, 0])
        return torch.cat(found)

    def _mask_probabilities(
        self, head: FCNMaskHead, feats: Sequence[Tensor], rois: Tensor, labels: Tensor
    ) -> Tensor:
        coarse = head(self._mask_features(feats, rois))
        # only the own class is pasted, so only its mask is refined
        refined = coarse[torch.arange(len(labels), device=labels.device), labels][:, None]
        spec = self._steps
        for i in range(spec.subdivision_steps):
            refined = interpolate(
                refined, scale_factor=spec.scale_factor, mode="bilinear", align_corners=False
            )
            pixels = refined.shape[-2] * refined.shape[-1]
            all_next = spec.subdivision_num_points >= spec.scale_factor**2 * pixels
            if not len(refined) or (all_next and i < spec.subdivision_steps - 1):
                continue  # the next step computes every point anyway
            rows, points = uncertain_pixels(refined, labels, spec.subdivision_num_points)
            logits = self.point_head(self._fine_features(feats, rois, points), point_sample(coarse, points))
            own = logits if logits.shape[1] == 1 else logits[torch.arange(len(labels)), labels][:, None]
            refined = refined.flatten(2).scatter(2, rows[:, None], own).reshape(refined.shape)
        return refined[:, 0].float().sigmoid()
