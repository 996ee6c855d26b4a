"""DDOD: classes and boxes choose their anchors apart from one another, by what is predicted.

Shapes: B images, L levels, P anchors of all levels, C classes, S positive anchors of the batch.
Boxes: xyxy, pixels of the padded network input.
Paper: Chen et al., 2021, arXiv:2107.02963. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/ddod_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules
from detector.layers.scale import Scale
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.losses.process_mean import process_mean
from detector.models.dense_heads.anchor_head import AnchorHead, AnchorTrainSpec, level_rows
from detector.models.dense_heads.anchor_targets import (
    AnchorTargets,
    AssignImage,
    anchor_targets,
    flatten_levels,
    map_sizes,
    usable_counts,
)
from detector.models.dense_heads.atss import GROUP_NORM
from detector.models.dense_heads.retina import rare_class, through
from detector.ops.iou import aligned_iou
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import ConvSpec, NormSpec
from detector.targets.assigners.assignment import Assignment
from detector.targets.assigners.atss import ATSSAssigner
from detector.targets.samplers.pseudo import PseudoSampler

RARE_CLASS = rare_class("atss_cls")
DEFORMABLE = ConvSpec(type="DCN")


@dataclass(frozen=True)
class DDODTrainSpec(AnchorTrainSpec):
    """``assigner`` serves the classes, ``reg_assigner`` the boxes; both need ``alpha``."""

    reg_assigner: ATSSAssigner | None = None


class DDODHead(AnchorHead):
    """ATSS's layers with deformable first blocks; the third map is an IoU."""

    cls_convs: nn.ModuleList
    reg_convs: nn.ModuleList
    atss_cls: nn.Module
    atss_reg: nn.Module
    atss_iou: nn.Module

    def __init__(
        self,
        *,
        stacked_convs: int = 4,
        conv_cfg: ConvSpec | None = None,
        use_dcn: bool = True,
        norm_cfg: NormSpec | None = GROUP_NORM,
        loss_iou: nn.Module | None = None,
        train_cfg: DDODTrainSpec | None = None,
        init_cfg: InitRules = RARE_CLASS,
        **kwargs: Any,
    ) -> None:
        """Describe the head; the rest as in ``AnchorHead``.

        Args:
            stacked_convs: blocks per tower.
            conv_cfg: convolution of the blocks, after a deformable first one.
            use_dcn: the first block of each tower is deformable.
            norm_cfg: norm of the towers.
            loss_iou: loss of the IoU.
            train_cfg: assigners; None builds a head for testing only.
            init_cfg: rules for the initial values.
            **kwargs: arguments of ``AnchorHead``.

        Raises:
            ConfigError: an assigner is missing or does not look at predictions.
        """
        self.stacked_convs, self.conv_cfg = stacked_convs, conv_cfg
        self.use_dcn, self.norm_cfg = use_dcn, norm_cfg
        super().__init__(train_cfg=train_cfg, init_cfg=init_cfg, **kwargs)
        self.loss_iou = CrossEntropyLoss(use_sigmoid=True) if loss_iou is None else loss_iou
        self.cls_assigner, self.reg_assigner = _assigners(train_cfg)
        # positives of each level so far, over both tasks: rare levels count up to twice as much
        self.positives_per_level = [0.0] * self.prior_generator.num_levels

    def _make_layers(self) -> None:
        for name in ("cls_convs", "reg_convs"):
            blocks = nn.ModuleList()
            for i in range(self.stacked_convs):
                conv = DEFORMABLE if i == 0 and self.use_dcn else self.conv_cfg
                width = self.feat_channels if i else self.in_channels
                blocks.append(
                    ConvModule(width, self.feat_channels, 3, padding=1, conv_cfg=conv, norm_cfg=self.norm_cfg)
                )
            self.add_module(name, blocks)
        for name, channels in (("cls", self.cls_out_channels), ("reg", 4), ("iou", 1)):
            layer = nn.Conv2d(self.feat_channels, self.num_base_priors * channels, 3, padding=1)
            self.add_module(f"atss_{name}", layer)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def init_weights(self) -> None:
        """Normal convolutions with std 0.01, classes starting at probability 0.01, offsets at 0."""
        super().init_weights()
        for tower in (self.cls_convs, self.reg_convs):
            if self.use_dcn and len(tower):
                conv: Any = tower[0].conv
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.conv_offset.weight)
                nn.init.zeros_(conv.conv_offset.bias)
        if self.init_cfg not in (None, RARE_CLASS):
            apply_rules(self, self.init_cfg)  # type: ignore[arg-type]

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives logits (B, A * C, h, w), deltas (B, A * 4, h, w), IoUs (B, A, h, w)."""
        reg_feat = through(self.reg_convs, x)
        return (
            self.atss_cls(through(self.cls_convs, x)),
            self.scales[level](self.atss_reg(reg_feat)).float(),
            self.atss_iou(reg_feat),
        )

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_iou, scalars: weighted sums of levels over the number of positives."""
        logits = flatten_levels(raw[0], self.cls_out_channels).detach()
        deltas = flatten_levels(raw[1], 4).detach()
        counts = self.level_counts(map_sizes(raw[0]))
        found = {}
        for task, assigner in (("cls", self.cls_assigner), ("reg", self.reg_assigner)):
            assign = self._by_predictions(assigner, logits, deltas, targets, counts)
            found[task] = self._targets(raw, targets, metas, assign)
        class_loss = self._class_losses(raw[0], found["cls"], counts)
        box_loss, iou_loss = self._box_losses(raw[1], raw[2], found["reg"], counts)
        return {"loss_cls": class_loss, "loss_bbox": box_loss, "loss_iou": iou_loss}

    def _by_predictions(
        self,
        assigner: ATSSAssigner | None,
        logits: Tensor,
        deltas: Tensor,
        targets: Sequence[Targets],
        counts: Sequence[int],
    ) -> AssignImage:
        """Assignment by class score and overlap of the predictions (B, P, C) and (B, P, 4)."""
        self.training_settings()
        assert assigner is not None

        def assign(image: int, anchors: Tensor, rows: Tensor | None) -> Assignment:
            chosen = slice(None) if rows is None else rows
            target = targets[image]
            boxes = self.bbox_coder.decode(anchors, deltas[image][chosen])
            quality = assigner.joint_quality(logits[image][chosen], boxes, target.boxes, target.labels)
            level_sizes = usable_counts(rows, counts)
            return assigner.assign_levels(
                anchors, level_sizes, target.boxes, target.ignore_boxes, quality=quality
            )

        return assign

    def _targets(
        self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta], assign: AssignImage
    ) -> AnchorTargets:
        spec = self.training_settings()
        return anchor_targets(
            self.prior_generator,
            map_sizes(raw[0]),
            targets,
            metas,
            assigner=spec.assigner,
            sampler=PseudoSampler(),
            allowed_border=spec.allowed_border,
            with_labels=True,
            assign=assign,
        )

    def level_factors(self, found: AnchorTargets, counts: Sequence[int]) -> list[float]:
        """Weight in [1, 2] of each level, after counting the positives of ``found``; 2 for the rarest."""
        for i, (places, _) in enumerate(found.per_level(counts)):
            self.positives_per_level[i] += len(places)
        least, most = min(self.positives_per_level), max(self.positives_per_level)
        return [2.0 - (n - least) / (most - least + 1e-10) for n in self.positives_per_level]

    def _class_losses(self, maps: Sequence[Tensor], found: AnchorTargets, counts: Sequence[int]) -> Tensor:
        factors = self.level_factors(found, counts)
        batch, count = len(maps[0]), process_mean(found.num_pos, like=maps[0])
        num_rows = batch * sum(counts)
        labels = found.labels(num_rows, self.num_classes).reshape(batch, -1).split(counts, dim=1)
        weights = found.weights(num_rows, self.training_settings().pos_weight).reshape(batch, -1)
        losses = []
        for level, own, weight, factor in zip(
            maps, labels, weights.split(counts, dim=1), factors, strict=True
        ):
            rows = level_rows(level, self.cls_out_channels)
            losses.append(factor * self.loss_cls(rows, own.flatten(), weight.flatten(), avg_factor=count))
        return torch.stack(losses).sum()

    def _box_losses(
        self, deltas: Sequence[Tensor], ious: Sequence[Tensor], found: AnchorTargets, counts: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Box and IoU loss of the positives of every level."""
        factors = self.level_factors(found, counts)
        count = process_mean(found.num_pos, like=deltas[0])
        box_losses, iou_losses = [], []
        for i, (places, rows) in enumerate(found.per_level(counts)):
            boxes = self.bbox_coder.decode(found.pos_anchors[places], level_rows(deltas[i], 4)[rows])
            wanted = found.pos_gt_boxes[places]
            overlap = aligned_iou(boxes.detach(), wanted)
            quality = level_rows(ious[i], 1)[rows, 0]
            box_losses.append(factors[i] * self.loss_bbox(boxes, wanted, avg_factor=count))
            iou_losses.append(factors[i] * self.loss_iou(quality, overlap, avg_factor=count))
        return torch.stack(box_losses).sum(), torch.stack(iou_losses).sum()


def _assigners(spec: DDODTrainSpec | None) -> tuple[ATSSAssigner | None, ATSSAssigner | None]:
    """The class and the box assigner, checked."""
    if spec is None:
        return None, None
    for name, assigner in (("assigner", spec.assigner), ("reg_assigner", spec.reg_assigner)):
        if not isinstance(assigner, ATSSAssigner) or assigner.alpha is None:
            raise ConfigError(
                f"DDODHead train_cfg.{name}: found {type(assigner).__name__}; expected an ATSSAssigner "
                "with alpha. Give both assigners."
            )
    assert isinstance(spec.assigner, ATSSAssigner)
    return spec.assigner, spec.reg_assigner
