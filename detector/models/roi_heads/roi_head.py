"""What every RoI head offers, and the steps they share: sampling, suppression, pasting.

Shapes: B images, L levels, K regions of the batch, N detections of one image, C classes, M mask pixels per
side.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Source: checked against mmdet 2.28.2 models/roi_heads/base_roi_head.py and test_mixins.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead
from detector.ops.mask_paste import paste_masks
from detector.ops.merging import merge_masks, merge_regions
from detector.ops.nms import multiclass_nms
from detector.ops.roi_align import boxes_to_rois
from detector.structures.boxes import rescale_to_original
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.structures.specs import NmsSpec, Spec
from detector.structures.views import boxes_to_view
from detector.targets.assigners.assignment import Assigner
from detector.targets.samplers.sampling import JudgingSampler, RegionJudge, Sampled, Sampler

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


class RoIHead(nn.Module):
    """From proposals to losses or detections."""

    test_cfg: RoITestSpec
    #: whether ``predict_views`` is defined: where MMDetection tests this head with augmentation
    merges_views = True

    @property
    def with_mask(self) -> bool:
        """Whether masks are predicted."""
        return False

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Initial values of all parts."""
        for part in self.children():
            for one in part if isinstance(part, nn.ModuleList) else (part,):
                if hasattr(one, "init_weights"):
                    one.init_weights()  # type: ignore[operator]

    def loss(
        self,
        feats: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Targets],
        metas: Sequence[ImageMeta],
    ) -> dict[str, Tensor]:
        """Scalars by the reference's names.

        Args:
            feats: L maps (B, channels, h, w).
            proposals: B tensors (n, 4 or 5).
            targets: ground truth of B images, with masks where masks are predicted.
            metas: of the B images.
        """
        raise NotImplementedError

    def predict(
        self,
        feats: Sequence[Tensor],
        proposals: Sequence[Tensor],
        metas: Sequence[ImageMeta],
        *,
        rescale: bool,
    ) -> list[Detections]:
        """Detections of B images, best first, in original pixels with ``rescale``, else in input pixels."""
        raise NotImplementedError

    def look(self, feats: Sequence[Tensor]) -> Any:
        """What region predictions look at: L maps (B, channels, h, w), or what a head makes of them."""
        return feats

    def region_boxes(self, scene: Any, rois: Tensor, meta: ImageMeta) -> tuple[Tensor, Tensor]:
        """Boxes (K, 4 * C or 4) and probabilities (K, C + 1) of (K, 5) regions of one image."""
        raise NotImplementedError

    def region_masks(self, scene: Any, rois: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (K, M, M) of the masks of (K, 5) regions with labels (K,)."""
        raise NotImplementedError

    @torch.no_grad()
    def predict_views(
        self, feats: Sequence[Sequence[Tensor]], proposals: Tensor, metas: Sequence[ImageMeta]
    ) -> Detections:
        """Detections of one image, in original pixels, best first, from several views of it.

        Every view judges the same regions; boxes and probabilities are averaged before suppression, masks
        after it.

        Args:
            feats: per view L maps (1, channels, h, w).
            proposals: (n, 4) in original pixels; n may be 0.
            metas: of each view.
        """
        scenes, spec = [self.look(maps) for maps in feats], self.test_cfg
        rois = [boxes_to_rois([boxes_to_view(proposals, meta)]) for meta in metas]
        regions = [self.region_boxes(*part) for part in zip(scenes, rois, metas, strict=True)]
        merged = merge_regions([boxes for boxes, _ in regions], [scores for _, scores in regions], metas)
        boxes, scores, labels = multiclass_nms(
            *merged, score_thr=spec.score_thr, spec=spec.nms, max_num=spec.max_per_img
        )
        found = Detections(boxes=boxes, scores=scores, labels=labels)
        if not self.with_mask:
            return found
        rois = [boxes_to_rois([boxes_to_view(boxes, meta)]) for meta in metas]
        views = [self.region_masks(scene, own, labels) for scene, own in zip(scenes, rois, strict=True)]
        pasted = paste_masks(
            merge_masks(views, metas), boxes, metas[0].ori_hw, threshold=spec.mask_thr_binary
        )
        return replace(found, masks=pasted)


def require_one_per_stage(num_stages: int, lists: dict[str, Sequence[object] | None]) -> None:
    """Check the lists of a cascade; None counts as absent.

    Raises:
        ConfigError: a list has not one entry per stage.
    """
    for name, values in lists.items():
        if values is not None and len(values) != num_stages:
            raise ConfigError(
                f"{name}: {len(values)} entries for num_stages={num_stages}; give one for each stage."
            )


def sample_regions(
    spec: RoITrainSpec,
    proposals: Sequence[Tensor],
    targets: Sequence[Targets],
    judges: Sequence[RegionJudge] | None = None,
) -> list[Sampled]:
    """Assign and sample the proposals (n, 4 or 5) of each image.

    Args:
        spec: assigner and sampler.
        proposals: per image.
        targets: per image.
        judges: per image the box head's view, for samplers that mine hard regions.
    """
    samples = []
    for i, (boxes, target) in enumerate(zip(proposals, targets, strict=True)):
        boxes = boxes[:, :4]
        assignment = spec.assigner.assign(boxes, target.boxes, target.ignore_boxes)
        if isinstance(spec.sampler, JudgingSampler):
            if judges is None:
                raise ConfigError(f"{type(spec.sampler).__name__} needs a RoI head with one box head.")
            found = spec.sampler.sample_judged(assignment, boxes, target.boxes, target.labels, judges[i])
        else:
            found = spec.sampler.sample(assignment, boxes, target.boxes, target.labels)
        samples.append(found)
    return samples


def instance_masks(targets: Sequence[Targets]) -> list[Tensor]:
    """Ground-truth masks (G, H, W) of each image.

    Raises:
        RuntimeError: the pipeline loaded none.
    """
    masks = [target.masks for target in targets if target.masks is not None]
    if len(masks) < len(targets):
        raise RuntimeError("The model predicts masks but the targets hold none; load with_mask=True.")
    return masks


def best_detections(
    head: BBoxHead,
    rois: Tensor,
    scores: Tensor,
    deltas: Tensor | None,
    meta: ImageMeta,
    spec: RoITestSpec,
    *,
    rescale: bool,
) -> Detections:
    """Decode, filter and suppress the predictions of one image: regions (K, 5), logits, deltas."""
    boxes, probabilities = head.decode(rois, scores, deltas, meta.input_hw)
    if rescale:
        boxes = rescale_to_original(boxes.reshape(-1, 4), meta.scale_factor).reshape(boxes.shape)
    kept = multiclass_nms(
        boxes, probabilities, score_thr=spec.score_thr, spec=spec.nms, max_num=spec.max_per_img
    )
    return Detections(boxes=kept[0], scores=kept[1], labels=kept[2])


def input_boxes(found: Sequence[Detections], metas: Sequence[ImageMeta], *, rescale: bool) -> list[Tensor]:
    """Boxes (N, 4) of each image in pixels of the network input; ``rescale`` says that they are original."""
    return [
        d.boxes * d.boxes.new_tensor(m.scale_factor) if rescale else d.boxes
        for d, m in zip(found, metas, strict=True)
    ]


def paste_detections(
    masks: Tensor,
    boxes: Sequence[Tensor],
    found: Sequence[Detections],
    metas: Sequence[ImageMeta],
    *,
    threshold: float,
    rescale: bool,
) -> list[Detections]:
    """Add masks at the original (or, without ``rescale``, the unpadded input) size.

    Args:
        masks: (N of the batch, M, M) probabilities.
        boxes: per image (N, 4) in pixels of the network input.
        found: detections of each image.
        metas: of each image.
        threshold: least probability of a mask pixel.
        rescale: paste at the original size.
    """
    results = []
    for part, b, d, m in zip(masks.split([len(d) for d in found]), boxes, found, metas, strict=True):
        # there and back, as the reference does: a mask pixel on the threshold turns on the last bit
        pasted = rescale_to_original(b, m.scale_factor) if rescale else b
        rles = paste_masks(part, pasted, m.ori_hw if rescale else m.input_hw, threshold=threshold)
        results.append(replace(d, masks=rles))
    return results
