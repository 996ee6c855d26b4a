"""The RoI head of Double-Head R-CNN: the box branch sees more of the surroundings.

Shapes: L levels, K regions of the batch.
Boxes: xyxy, pixels of the padded network input.
Paper: Wu et al., CVPR 2020, arXiv:1904.06493. Attribute names are the checkpoint format (MMDetection 2.28,
models/roi_heads/double_roi_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detector.models.roi_heads.bbox_heads.double_convfc import DoubleConvFCBBoxHead
from detector.models.roi_heads.extractors.extractor import RoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.roi_head import RoITestSpec, RoITrainSpec
from detector.models.roi_heads.standard import BoxOutputs, StandardRoIHead


class DoubleHeadRoIHead(StandardRoIHead):
    """Pools each region twice: as it is for the class, grown about its centre for the box."""

    bbox_head: DoubleConvFCBBoxHead

    def __init__(
        self,
        *,
        reg_roi_scale_factor: float,
        bbox_roi_extractor: RoIExtractor,
        bbox_head: DoubleConvFCBBoxHead,
        mask_roi_extractor: RoIExtractor | None = None,
        mask_head: FCNMaskHead | None = None,
        shared_head: nn.Module | None = None,
        train_cfg: RoITrainSpec | None = None,
        test_cfg: RoITestSpec | None = None,
    ) -> None:
        """``reg_roi_scale_factor`` grows the sides for the box; the rest as in ``StandardRoIHead``."""
        super().__init__(
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            shared_head=shared_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.reg_roi_scale_factor = reg_roi_scale_factor

    def forward_boxes(self, feats: Sequence[Tensor], rois: Tensor) -> BoxOutputs:
        """What the box head says of regions (K, 5) on L maps (B, channels, h, w)."""
        maps = feats[: self.bbox_roi_extractor.num_inputs]
        features = self._box_features(feats, rois)
        grown = self.bbox_roi_extractor(maps, rois, roi_scale_factor=self.reg_roi_scale_factor)
        if self.shared_head is not None:
            grown = self.shared_head(grown)
        scores, deltas = self.bbox_head(features, grown)
        return BoxOutputs(features=features, scores=scores, deltas=deltas)
