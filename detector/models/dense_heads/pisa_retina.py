"""PISA for RetinaNet: prime samples weigh more, and boxes count by their class score.

Shapes: B images, L levels, S positive anchors of the batch.
Boxes: xyxy, pixels of the padded network input.
Paper: Cao et al., CVPR 2020, arXiv:1904.04821. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/pisa_retinanet_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detector.errors import ConfigError
from detector.losses.focal import FocalLoss
from detector.losses.pisa import carl_loss, prime_weights
from detector.models.dense_heads.anchor_head import AnchorTrainSpec
from detector.models.dense_heads.anchor_targets import AnchorTargets, flatten_levels, map_sizes
from detector.models.dense_heads.retina import RetinaHead
from detector.models.dense_heads.ssd import CarlSpec, RankSpec
from detector.ops.iou import aligned_iou
from detector.structures.samples import ImageMeta, Targets


@dataclass(frozen=True)
class PISATrainSpec(AnchorTrainSpec):
    """With weights of prime samples and a box loss by class score; None leaves one out."""

    isr: RankSpec | None = None
    carl: CarlSpec | None = None


class PISARetinaHead(RetinaHead):
    """RetinaNet's head with the losses of PISA."""

    train_cfg: PISATrainSpec | None

    def __init__(self, *, train_cfg: PISATrainSpec | None = None, **kwargs: Any) -> None:
        """Arguments as in ``RetinaHead``.

        Raises:
            ConfigError: another class loss than FocalLoss, whose unreduced values are needed.
        """
        super().__init__(train_cfg=train_cfg, **kwargs)
        if not isinstance(self.loss_cls, FocalLoss):
            raise ConfigError(
                f"PISARetinaHead loss_cls: found {type(self.loss_cls).__name__}; expected FocalLoss."
            )

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and perhaps loss_carl, scalars, divided by the number of positives."""
        found = self.find_targets(map_sizes(raw[0]), targets, metas)
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1)[found.pos_rows]
        deltas = flatten_levels(raw[1], 4).flatten(0, 1)[found.pos_rows]
        spec = self.training_settings()
        assert isinstance(spec, PISATrainSpec)
        weights = None
        if spec.isr is not None:
            num_anchors = sum(self.level_counts(map_sizes(raw[0])))
            objects = found.pos_rows // num_anchors * max(len(t.boxes) for t in targets) + found.pos_gt_index
            weights = self._prime(logits.detach(), deltas.detach(), found, objects, spec.isr)
        losses = {
            "loss_cls": self.class_loss(raw[0], found, found.num_pos, weights),
            "loss_bbox": self.box_loss(raw[1], found, found.num_pos),
        }
        if spec.carl is not None:
            scores = logits.sigmoid().gather(1, found.pos_labels[:, None])[:, 0]
            wanted = self.bbox_coder.encode(found.pos_anchors, found.pos_gt_boxes)
            box_losses = self.loss_bbox(deltas, wanted, reduction="none")
            losses["loss_carl"] = carl_loss(
                scores, box_losses, k=spec.carl.k, bias=spec.carl.bias, avg_factor=found.num_pos
            )
        return losses

    def _prime(
        self, logits: Tensor, deltas: Tensor, found: AnchorTargets, objects: Tensor, spec: RankSpec
    ) -> Tensor:
        """Class weights (S,) of the positives; ``objects`` (S,) numbers their ground truth."""
        configured = self.training_settings().pos_weight
        weights = deltas.new_full((len(deltas),), configured if configured > 0 else 1.0)
        overlap = aligned_iou(self.bbox_coder.decode(found.pos_anchors, deltas), found.pos_gt_boxes)
        losses = self.loss_cls(logits, found.pos_labels, reduction="none")
        return prime_weights(weights, overlap, found.pos_labels, objects, losses, k=spec.k, bias=spec.bias)
