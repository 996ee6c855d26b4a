"""Localisation distillation: the distributions of a teacher's sides teach those of a smaller GFL head.

Shapes: B images, L levels, n + 1 bins per side.
Boxes: xyxy, pixels of the padded network input.
Paper: Zheng et al., CVPR 2022, arXiv:2102.12252. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/ld_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detector.losses.kd import KnowledgeDistillationKLDivLoss
from detector.losses.process_mean import process_mean
from detector.models.dense_heads.anchor_targets import flatten_levels, map_sizes
from detector.models.dense_heads.gfl import GFLHead
from detector.structures.samples import ImageMeta, Targets


class LDHead(GFLHead):
    """GFL's layers; a teacher's raw outputs enter the loss."""

    def __init__(self, *, loss_ld: nn.Module | None = None, **kwargs: Any) -> None:
        """``loss_ld`` compares distributions; the rest as in ``GFLHead``."""
        super().__init__(**kwargs)
        self.loss_ld = KnowledgeDistillationKLDivLoss(loss_weight=0.25, T=10) if loss_ld is None else loss_ld

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """Not possible without a teacher; see ``distil``.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("LDHead: its loss needs a teacher's outputs; call distil.")

    def distil(
        self, raw: Any, teacher_raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """loss_cls, loss_bbox, loss_dfl and loss_ld, scalars summed over levels.

        ``teacher_raw`` are the raw outputs of a GFL head on the same images with the same levels and bins.
        """
        sizes, columns = map_sizes(raw[0]), 4 * (self.reg_max + 1)
        found = self.find_targets(sizes, targets, metas)
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1)
        bins = flatten_levels(raw[1], columns).flatten(0, 1)
        sides = self.positive_sides(logits, bins, found, self.level_counts(sizes))
        soft = flatten_levels(teacher_raw[1], columns).flatten(0, 1)[found.pos_rows]
        loss_ld = self.loss_ld(
            sides.bins.reshape(-1, self.reg_max + 1),
            soft.reshape(-1, self.reg_max + 1),
            sides.weights[:, None].expand(-1, 4).flatten(),
            avg_factor=4.0,
        )
        total = process_mean(sides.weights.sum() + 1e-6, like=sides.weights, least=0.0)
        losses = self.side_losses(sides, total)
        return losses | {"loss_cls": self.joint_loss(logits, sides, found), "loss_ld": loss_ld}
