"""FSAF: RetinaNet's towers without anchor shapes; every box learns on the level that fits it best.

Shapes: B images, L levels, C classes, P anchors of all levels (one per cell), S positive anchors of the
batch, G boxes of the batch.
Boxes: xyxy, pixels of the padded network input.
Paper: Zhu et al., CVPR 2019, arXiv:1903.00621. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/fsaf_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.init import InitRules
from detector.models.dense_heads.anchor_targets import (
    AnchorTargets,
    anchor_targets,
    flatten_levels,
    map_sizes,
)
from detector.models.dense_heads.retina import RetinaHead
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import InitSpec
from detector.targets.assigners.assignment import Assignment
from detector.targets.assigners.center_region import CenterRegionAssigner
from detector.targets.samplers.pseudo import PseudoSampler

UNMATCHED = 1e6  # loss of a box on a level where no anchor stands for it
POSITIVE_DISTANCES = InitSpec(
    type="Normal",
    layer="Conv2d",
    std=0.01,
    override=[
        {"type": "Normal", "name": "retina_cls", "std": 0.01, "bias_prob": 0.01},
        {"type": "Normal", "name": "retina_reg", "std": 0.01, "bias": 0.25},
    ],
)


class FSAFHead(RetinaHead):
    """RetinaNet's layers with box distances above zero."""

    def __init__(
        self,
        *,
        score_threshold: float | None = None,
        init_cfg: InitRules = None,
        **kwargs: Any,
    ) -> None:
        """``score_threshold`` is what a score must exceed to count in ``pos_recall``.

        The rest as in ``RetinaHead``; both losses need ``reduction='none'`` for training.
        """
        super().__init__(init_cfg=POSITIVE_DISTANCES if init_cfg is None else init_cfg, **kwargs)
        self.score_threshold = score_threshold

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives logits (B, C, h, w) and distances (B, 4, h, w)."""
        logits, distances = super().forward_level(x, level)
        return logits, functional.relu(distances)

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls and loss_bbox, scalars, beside num_pos per image and pos_recall in percent.

        Raises:
            ConfigError: a loss reduces by itself.
        """
        if getattr(self.loss_bbox, "reduction", "none") != "none":
            raise ConfigError("FSAFHead.loss_bbox: expected reduction='none'; levels are chosen by its rows.")
        sizes = map_sizes(raw[0])
        found, shadowed = self._assign(sizes, targets, metas)
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1)
        chosen = flatten_levels(raw[1], 4).flatten(0, 1)[found.pos_rows].clamp(min=1e-4)
        weights = found.weights(len(logits), self.training_settings().pos_weight)
        weights = weights[:, None].repeat(1, logits.shape[1])
        weights[shadowed[:, 0], shadowed[:, 1]] = 0
        labels = found.labels(len(logits), self.num_classes)
        cls = self.loss_cls(logits, labels, weights, reduction="none")
        if self.reg_decoded_bbox:
            boxes, wanted = self.bbox_coder.decode(found.pos_anchors, chosen), found.pos_gt_boxes
        else:
            boxes, wanted = chosen, self.bbox_coder.encode(found.pos_anchors, found.pos_gt_boxes)
        reg = self.loss_bbox(boxes, wanted)
        reg = reg.sum(dim=1) if reg.dim() > 1 else reg
        kept = self._on_best_level(
            cls.detach()[found.pos_rows].sum(dim=1) + reg.detach(), found, sizes, targets
        )
        dropped = found.pos_rows[~kept]
        mask = torch.ones_like(cls)
        mask[dropped, labels[dropped]] = 0
        num_pos = kept.sum()
        count = num_pos if int(num_pos) > 0 else num_pos + found.num_neg
        return {
            "loss_cls": (cls * mask).sum() / count,
            "loss_bbox": (reg * kept).sum() / count,
            "num_pos": num_pos.float() / len(targets),
            "pos_recall": self._recall(logits.detach()[found.pos_rows[kept]], labels[found.pos_rows[kept]]),
        }

    def _assign(
        self, sizes: Sequence[tuple[int, int]], targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> tuple[AnchorTargets, Tensor]:
        """Targets, and (M, 2) pairs of a row over (B * P) and a class that the row is no sample of."""
        spec, num_anchors = self.training_settings(), sum(self.level_counts(sizes))
        shadowed = [targets[0].labels.new_zeros(0, 2)]

        def assign(image: int, anchors: Tensor, rows: Tensor | None) -> Assignment:
            target = targets[image]
            assigner: Any = spec.assigner
            if not isinstance(assigner, CenterRegionAssigner):
                return assigner.assign(anchors, target.boxes, target.ignore_boxes)
            assignment, pairs = assigner.assign_shadowed(
                anchors, target.boxes, target.labels, target.ignore_boxes
            )
            row, box = torch.nonzero(pairs, as_tuple=True)
            row = row if rows is None else rows[row]
            shadowed.append(torch.stack((row + image * num_anchors, target.labels[box]), dim=1))
            return assignment

        found = anchor_targets(
            self.prior_generator,
            sizes,
            targets,
            metas,
            assigner=spec.assigner,
            sampler=PseudoSampler(),
            allowed_border=spec.allowed_border,
            with_labels=True,
            assign=assign,
        )
        return found, torch.cat(shadowed)

    def _on_best_level(
        self,
        losses: Tensor,
        found: AnchorTargets,
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Targets],
    ) -> Tensor:
        """(S,) whether a positive anchor is on the level with the least mean loss of its box."""
        counts = self.level_counts(sizes)
        edges = torch.tensor(list(accumulate(counts)), device=losses.device)
        level = torch.bucketize(found.pos_rows % sum(counts), edges, right=True)
        starts = torch.tensor([0, *accumulate(len(t.boxes) for t in targets)], device=losses.device)
        box = found.pos_gt_index + starts[found.pos_rows // sum(counts)]
        num_boxes = sum(len(t.boxes) for t in targets)
        cell = level * num_boxes + box
        size = len(counts) * num_boxes
        total = losses.new_zeros(size).index_add_(0, cell, losses)
        members = losses.new_zeros(size).index_add_(0, cell, torch.ones_like(losses))
        mean = torch.where(members > 0, total / members.clamp(min=1), UNMATCHED)
        return level == mean.reshape(len(counts), num_boxes).argmin(dim=0)[box]

    def _recall(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Share of (S, C) rows whose best class is the label and good enough, in percent; 0 without rows."""
        if len(logits) == 0:
            return logits.new_zeros(())
        scores, best = (logits.sigmoid() if self.use_sigmoid else logits.softmax(dim=1)).max(dim=1)
        right = best == labels
        if self.score_threshold is not None:
            right &= scores > self.score_threshold
        return right.float().mean() * 100.0
