"""The RoI head of Grid R-CNN: boxes located by a grid of points instead of deltas.

Shapes: B images, L levels, K regions of the batch.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Lu et al., CVPR 2019, arXiv:1811.12030. Attribute names are the checkpoint format (MMDetection 2.28,
models/roi_heads/grid_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead
from detector.models.roi_heads.extractors.extractor import RoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.mask_heads.grid import GridHead
from detector.models.roi_heads.roi_head import RoITestSpec, RoITrainSpec
from detector.models.roi_heads.standard import StandardRoIHead
from detector.ops.roi_align import boxes_to_rois
from detector.structures.boxes import rescale_to_original
from detector.structures.samples import Detections, ImageMeta
from detector.targets.samplers.sampling import Sampled

# Largest move of a region's centre and change of its sides in training, in units of its sides.
_JITTER = 0.15


@dataclass(frozen=True)
class GridTrainSpec(RoITrainSpec):
    """As ``RoITrainSpec``; ``pos_radius`` in pixels of the maps, ``max_num_grid`` regions per batch."""

    pos_radius: int = 1
    max_num_grid: int = 192


def jitter(boxes: Tensor, input_hw: tuple[int, int]) -> Tensor:
    """Move and scale (n, 4) boxes at random and clip them; draws from torch's global CPU generator."""
    draw = torch.empty(len(boxes), 4).uniform_(-_JITTER, _JITTER).to(boxes)
    centre, size = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]).abs()
    centre, size = centre + size * draw[:, :2], size * (1 + draw[:, 2:])
    moved = torch.cat((centre - size / 2, centre + size / 2), dim=1)
    height, width = input_hw
    return torch.minimum(moved.clamp(min=0), moved.new_tensor([width - 1, height - 1, width - 1, height - 1]))


class GridRoIHead(StandardRoIHead):
    """Classes as in ``StandardRoIHead``; the boxes kept by suppression are then replaced by the grid's."""

    merges_views = False  # there MMDetection leaves the grid out, so that its boxes are the proposals

    def __init__(
        self,
        *,
        bbox_roi_extractor: RoIExtractor,
        bbox_head: BBoxHead,
        grid_head: GridHead,
        grid_roi_extractor: RoIExtractor | None = None,
        mask_roi_extractor: RoIExtractor | None = None,
        mask_head: FCNMaskHead | None = None,
        shared_head: nn.Module | None = None,
        train_cfg: GridTrainSpec | None = None,
        test_cfg: RoITestSpec | None = None,
    ) -> None:
        """``grid_roi_extractor`` None shares the box extractor; the rest as in ``StandardRoIHead``."""
        super().__init__(
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            shared_head=shared_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.grid_roi_extractor = grid_roi_extractor or bbox_roi_extractor
        self.grid_head = grid_head
        self._grid_spec = train_cfg

    def _grid_maps(self, feats: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        x = self.grid_roi_extractor(feats[: self.grid_roi_extractor.num_inputs], rois)
        return self.grid_head(x if self.shared_head is None else self.shared_head(x))

    def _region_losses(
        self, feats: Sequence[Tensor], samples: Sequence[Sampled], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        spec = self._grid_spec
        assert spec is not None
        boxes = [jitter(s.pos_boxes, m.input_hw) for s, m in zip(samples, metas, strict=True)]
        rois = boxes_to_rois(boxes)
        if len(rois) == 0:  # a group norm takes no empty batch; the head still belongs to the graph
            return {"loss_grid": torch.stack([p.sum() for p in self.grid_head.parameters()]).sum() * 0}
        chosen = torch.randperm(len(rois))[: spec.max_num_grid].to(rois.device)
        gt_boxes = torch.cat([s.pos_gt_boxes for s in samples])[chosen]
        wanted = self.grid_head.targets(rois[chosen, 1:], gt_boxes, spec.pos_radius)
        return self.grid_head.loss(self._grid_maps(feats, rois[chosen]), wanted)

    def _predict_boxes(
        self,
        feats: Sequence[Tensor],
        proposals: Sequence[Tensor],
        metas: Sequence[ImageMeta],
        *,
        rescale: bool,
    ) -> list[Detections]:
        found = super()._predict_boxes(feats, proposals, metas, rescale=False)
        rois = boxes_to_rois([d.boxes for d in found])
        if len(rois) == 0:
            return found
        boxes = self.grid_head.decode(rois[:, 1:], self._grid_maps(feats, rois)[0])
        return [
            replace(d, boxes=rescale_to_original(b, m.scale_factor) if rescale else b)
            for d, b, m in zip(found, boxes.split([len(d) for d in found]), metas, strict=True)
        ]
