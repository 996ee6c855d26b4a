"""A class and a box for each region that comes with the image.

Shapes: B images of H x W, n proposals of one image.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Girshick, ICCV 2015, arXiv:1504.08083; checked against mmdet 2.28.2 models/detectors/fast_rcnn.py;
attribute names are the checkpoint format.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.init import InitRules, apply_rules
from detector.models.detectors.base import Detector, chained
from detector.models.roi_heads.roi_head import RoIHead
from detector.structures.samples import Batch, Detections


class FastRCNN(Detector):
    """Backbone, neck and RoI head on stored proposals."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        roi_head: RoIHead,
        neck: nn.Module | None = None,
        init_cfg: InitRules = None,
    ) -> None:
        """Take built parts; ``init_cfg`` holds rules for the whole model."""
        super().__init__()
        self.backbone, self.neck, self.roi_head, self.init_cfg = backbone, chained(neck), roi_head, init_cfg

    @property
    def with_mask(self) -> bool:
        """Whether masks are predicted."""
        return self.roi_head.with_mask

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.roi_head.num_classes

    def init_weights(self) -> None:
        """Random initial values of all parts, then the model's own rules."""
        super().init_weights()
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of the RoI head; images without objects or proposals are fine.

        Raises:
            ConfigError: the batch holds no proposals.
        """
        assert batch.targets is not None, "training needs targets"
        feats = self.extract_feat(batch.images)
        return self.roi_head.loss(feats, _proposals(batch), batch.targets, batch.metas)

    @torch.no_grad()
    def predict(self, batch: Batch, *, rescale: bool = True) -> list[Detections]:
        """Detections of B images, best first; masks at original size with ``rescale``.

        Raises:
            ConfigError: the batch holds no proposals.
        """
        feats = self.extract_feat(batch.images)
        return self.roi_head.predict(feats, _proposals(batch), batch.metas, rescale=rescale)


def _proposals(batch: Batch) -> list[Tensor]:
    if batch.proposals is None:
        raise ConfigError(
            "FastRCNN: found images without proposals; it classifies stored ones. Give the data set a "
            "proposal_file, put LoadProposals into its pipeline and 'proposals' into the keys of Collect, or "
            "take a FasterRCNN, which makes its own."
        )
    return batch.proposals
