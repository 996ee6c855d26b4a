"""VarifocalNet: scores that rate the box too, from features sampled at nine points of the predicted box.

Shapes: B images, L levels, C classes, P points of all levels, S positive points of the batch.
Boxes: xyxy, pixels of the padded network input. Distances: left, top, right, bottom, pixels.
Paper: Zhang et al., CVPR 2021, arXiv:2008.13367. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/vfnet_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.deform_conv import DeformConv2d
from detector.layers.init import InitRules
from detector.layers.scale import Scale
from detector.losses.focal import FocalLoss
from detector.losses.iou import GIoULoss
from detector.losses.process_mean import process_mean
from detector.losses.varifocal import VarifocalLoss
from detector.models.dense_heads.anchor_free import AnchorFreeHead, towers_init
from detector.models.dense_heads.anchor_head import AnchorTrainSpec
from detector.models.dense_heads.anchor_targets import anchor_targets, flatten_levels, map_sizes
from detector.models.dense_heads.fcos import GN_32, RANGES
from detector.models.dense_heads.selection import Candidates
from detector.ops.iou import aligned_iou
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import NormSpec
from detector.targets.assigners.regress_range import assign_by_range, labels_of
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.priors.points import MlvlPointGenerator
from detector.targets.samplers.pseudo import PseudoSampler

VFNET_INIT = towers_init(predictor="vfnet_cls")
# row and column of the nine kernel positions: -1, 0 or 1
STAR = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]


def star_offsets(distances: Tensor) -> Tensor:
    """Offsets that put a 3x3 kernel on centre, sides and corners of boxes.

    (B, 4, h, w) distances in cells give (B, 18, h, w): row and column of each kernel position.
    """
    left, top, right, bottom = distances.unbind(dim=1)
    zero = torch.zeros_like(left)
    rows, columns = {-1: -top, 0: zero, 1: bottom}, {-1: -left, 0: zero, 1: right}
    parts = [part for row, column in STAR for part in (rows[row] - row, columns[column] - column)]
    return torch.stack(parts, dim=1)


class VFNetHead(AnchorFreeHead):
    """The head: a first box, features aligned to it, then the score and a refined box."""

    def __init__(
        self,
        *,
        regress_ranges: Sequence[tuple[float, float]] = RANGES,
        center_sampling: bool = False,
        center_sample_radius: float = 1.5,
        sync_num_pos: bool = True,
        gradient_mul: float = 0.1,
        bbox_norm_type: str = "reg_denom",
        loss_cls_fl: nn.Module | None = None,
        use_vfl: bool = True,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        loss_bbox_refine: nn.Module | None = None,
        norm_cfg: NormSpec | None = GN_32,
        use_atss: bool = True,
        reg_decoded_bbox: bool = True,
        anchor_generator: AnchorGenerator | None = None,
        train_cfg: AnchorTrainSpec | None = None,
        init_cfg: InitRules = VFNET_INIT,
        **kwargs: Any,
    ) -> None:
        """Describe the head; see ``AnchorFreeHead`` for the other arguments.

        Args:
            regress_ranges: (low, high) largest distance in pixels of each level.
            center_sampling: without ATSS, only points near the centre of a box stand for it.
            center_sample_radius: how near, in strides.
            sync_num_pos: count positives over all processes.
            gradient_mul: share of the gradient that offsets pass to the first box.
            bbox_norm_type: unit of the learned distances, 'reg_denom' (upper end of the range) or 'stride'.
            loss_cls_fl: class loss without ``use_vfl``, default focal.
            use_vfl: varifocal loss.
            loss_cls: class loss, default varifocal.
            loss_bbox: loss of the first box, default 1.5 GIoU.
            loss_bbox_refine: loss of the refined box, default 2 GIoU.
            norm_cfg: norm of the towers.
            use_atss: positives by ATSS, else by FCOS's ranges.
            reg_decoded_bbox: accepted for the dialect; targets are always boxes.
            anchor_generator: anchors that ATSS compares.
            train_cfg: assigner; None builds a head for testing only.
            init_cfg: rules for the initial values.
            **kwargs: arguments of ``AnchorFreeHead``.

        Raises:
            ConfigError: unknown ``bbox_norm_type``.
        """
        if bbox_norm_type not in ("reg_denom", "stride"):
            raise ConfigError(
                f"VFNetHead.bbox_norm_type: found {bbox_norm_type!r}; expected 'reg_denom' or 'stride'."
            )
        varifocal = loss_cls or VarifocalLoss(alpha=0.75, gamma=2.0, iou_weighted=True)
        super().__init__(
            norm_cfg=norm_cfg,
            loss_cls=varifocal if use_vfl else loss_cls_fl or FocalLoss(),
            loss_bbox=loss_bbox or GIoULoss(loss_weight=1.5),
            init_cfg=init_cfg,
            **kwargs,
        )
        self.assigning = train_cfg
        self.regress_ranges = tuple(tuple(r) for r in regress_ranges)
        self.center_sampling, self.center_sample_radius = center_sampling, center_sample_radius
        self.sync_num_pos, self.gradient_mul = sync_num_pos, gradient_mul
        self.use_vfl, self.use_atss = use_vfl, use_atss
        denominators = [r[-1] for r in self.regress_ranges]
        denominators[-1] = denominators[-2] * 2
        self.box_units = denominators if bbox_norm_type == "reg_denom" else list(self.strides)
        self.loss_bbox_refine = loss_bbox_refine or GIoULoss(loss_weight=2.0)
        self.atss_prior_generator = anchor_generator or AnchorGenerator(
            ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16, 32, 64, 128]
        )
        self.prior_generator = MlvlPointGenerator(
            strides=self.atss_prior_generator.strides,
            offset=self.atss_prior_generator.center_offset if use_atss else 0.5,
        )

    def _init_layers(self) -> None:
        width = self.feat_channels
        self.cls_convs, self.reg_convs = self._tower(), self._tower()
        self.vfnet_reg_conv = ConvModule(
            width,
            width,
            3,
            padding=1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            bias=self.conv_bias,
        )
        self.vfnet_reg = nn.Conv2d(width, 4, 3, padding=1)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.strides)
        self.vfnet_reg_refine_dconv = DeformConv2d(width, width, 3, padding=1)
        self.vfnet_reg_refine = nn.Conv2d(width, 4, 3, padding=1)
        self.scales_refine = nn.ModuleList(Scale(1.0) for _ in self.strides)
        self.vfnet_cls_dconv = DeformConv2d(width, width, 3, padding=1)
        self.vfnet_cls = nn.Conv2d(width, self.cls_out_channels, 3, padding=1)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """L maps (B, C_in, h, w) give L logits (B, C, h, w) and L refined distances (B, 4, h, w).

        In training the first distances (B, 4, h, w) stand between the two.
        """
        scores, first, refined = [], [], []
        for level, x in enumerate(feats):
            cls_feat, reg_feat = self.towers(x)
            distances = self.scales[level](self.vfnet_reg(self.vfnet_reg_conv(reg_feat))).float().exp()
            distances = distances * self.box_units[level]
            # the offsets teach the first box only a little
            damped = (1 - self.gradient_mul) * distances.detach() + self.gradient_mul * distances
            offsets = star_offsets(damped / self.strides[level]).to(reg_feat.dtype)
            reg_feat = functional.relu(self.vfnet_reg_refine_dconv(reg_feat, offsets))
            factor = self.scales_refine[level](self.vfnet_reg_refine(reg_feat)).float().exp()
            cls_feat = functional.relu(self.vfnet_cls_dconv(cls_feat, offsets))
            scores.append(self.vfnet_cls(cls_feat))
            first.append(distances)
            refined.append(factor * distances.detach())
        return (scores, first, refined) if self.training else (scores, refined)

    def loss(
        self, raw: tuple[list[Tensor], ...], targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """loss_cls per positive, loss_bbox and loss_bbox_rf per sum of IoUs, scalars."""
        sizes = map_sizes(raw[0])
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1).float()
        levels = self.prior_generator.grid_priors(sizes, logits.device)
        points = torch.cat(levels)
        labels, weights, rows, wanted = self._targets(sizes, [len(p) for p in levels], points, targets, metas)
        points = points.repeat(len(targets), 1)[rows]
        losses, ious = {}, logits.new_zeros(len(rows))
        for name, maps, measure in (
            ("loss_bbox", raw[1], self.loss_bbox),
            ("loss_bbox_rf", raw[2], self.loss_bbox_refine),
        ):
            boxes = self.bbox_coder.decode(points, flatten_levels(maps, 4).flatten(0, 1)[rows])
            ious = aligned_iou(boxes.detach(), wanted).clamp(min=1e-6)
            losses[name] = measure(boxes, wanted, ious, avg_factor=process_mean(ious.sum(), like=ious))
        count = process_mean(len(rows), like=logits) if self.sync_num_pos else max(len(rows), 1)
        if not self.use_vfl:
            return {"loss_cls": self.loss_cls(logits, labels, weights, avg_factor=count), **losses}
        quality = torch.zeros_like(logits)
        quality[rows, labels[rows]] = ious
        return {"loss_cls": self.loss_cls(logits, quality, avg_factor=count), **losses}

    def _targets(
        self,
        sizes: Sequence[tuple[int, int]],
        counts: Sequence[int],
        points: Tensor,
        targets: Sequence[Targets],
        metas: Sequence[ImageMeta],
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Labels (B * P,), weights (B * P,) or None, positive rows (S,) and their boxes (S, 4)."""
        if not self.use_atss:
            radius = self.center_sample_radius if self.center_sampling else None
            indices = [
                assign_by_range(
                    points, counts, t.boxes, strides=self.strides, ranges=self.regress_ranges, radius=radius
                )[0]
                for t in targets
            ]
            labels = torch.cat(
                [labels_of(i, t.labels, self.num_classes) for i, t in zip(indices, targets, strict=True)]
            )
            boxes = torch.cat([t.boxes[i[i >= 0]] for i, t in zip(indices, targets, strict=True)])
            return labels, None, torch.nonzero(torch.cat(indices) >= 0).flatten(), boxes
        spec = self.assigning
        if spec is None:
            raise RuntimeError("VFNetHead was built without train_cfg and cannot compute a loss.")
        found = anchor_targets(
            self.atss_prior_generator,
            sizes,
            targets,
            metas,
            assigner=spec.assigner,
            sampler=PseudoSampler(),
            allowed_border=spec.allowed_border,
            with_labels=True,
        )
        num_rows = len(points) * len(targets)
        order = found.pos_rows.argsort()
        return (
            found.labels(num_rows, self.num_classes),
            found.weights(num_rows, spec.pos_weight),
            found.pos_rows[order],
            found.pos_gt_boxes[order],
        )

    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images with their refined boxes."""
        return super().select((raw[0], raw[-1]), metas, rescale=rescale)
