"""TOOD: class and box from shared features that each task weighs itself, trained on priors good at both.

Shapes: B images, L levels, C classes, P anchors of all levels (one per cell), S positive anchors of the
batch, F channels, N stacked convolutions.
Boxes: xyxy, pixels of the padded network input; raw boxes in strides of their level.
Paper: Feng et al., ICCV 2021, arXiv:2108.07755. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/tood_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, init_conv_modules, normal_
from detector.layers.scale import Scale
from detector.layers.task_decomposition import TaskDecomposition, geometric_mean, shifted_sides
from detector.losses.focal import FocalLoss
from detector.losses.process_mean import process_mean
from detector.models.dense_heads.anchor_head import AnchorHead, AnchorTrainSpec
from detector.models.dense_heads.anchor_targets import (
    AnchorTargets,
    anchor_targets,
    flatten_levels,
    map_sizes,
)
from detector.models.dense_heads.atss import GROUP_NORM, anchor_centres, centredness
from detector.models.dense_heads.retina import rare_class
from detector.models.dense_heads.selection import Candidates, candidates, to_original
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import ConvSpec, NormSpec
from detector.targets.assigners.assignment import Assigner, Assignment
from detector.targets.assigners.task_aligned import TaskAlignedAssigner
from detector.targets.samplers.pseudo import PseudoSampler

RARE_CLASS = rare_class("tood_cls")
RARE_BIAS = -4.59511985013459  # logit of 0.01
DCN_V2_4 = ConvSpec(type="DCNv2", deform_groups=4)
RawOutputs = tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class TOODTrainSpec(AnchorTrainSpec):
    """How anchors become targets.

    Attributes:
        assigner: pairs anchors and boxes by the predictions.
        initial_assigner: pairs them in the first epochs.
        initial_epoch: number of those epochs.
        alpha: weight of the score in the alignment.
        beta: weight of the IoU in the alignment.
    """

    assigner: Any
    initial_assigner: Assigner | None = None
    initial_epoch: int = 4
    alpha: float = 1
    beta: float = 6


class TOODHead(AnchorHead):
    """The head.

    Attribute names that hold tensors are the checkpoint format.

    Attributes:
        epoch: finished epochs; training sets it, it decides between the two ways to assign.
    """

    cls_decomp: TaskDecomposition
    reg_decomp: TaskDecomposition
    cls_prob_module: nn.Sequential
    reg_offset_module: nn.Sequential

    def __init__(
        self,
        *,
        num_dcn: int = 0,
        anchor_type: str = "anchor_free",
        initial_loss_cls: nn.Module | None = None,
        stacked_convs: int = 4,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = GROUP_NORM,
        reg_decoded_bbox: bool = True,
        train_cfg: TOODTrainSpec | None = None,
        init_cfg: InitRules = RARE_CLASS,
        **kwargs: Any,
    ) -> None:
        """Describe the head; the rest as in ``AnchorHead``.

        Args:
            num_dcn: first shared convolutions that are modulated deformable ones.
            anchor_type: boxes as distances from points ('anchor_free') or deltas ('anchor_based').
            initial_loss_cls: class loss of the first epochs.
            stacked_convs: shared convolutions.
            conv_cfg: the other shared convolutions.
            norm_cfg: norms.
            reg_decoded_bbox: accepted for the dialect; the box loss always compares boxes.
            train_cfg: assigners; None builds a head for testing only.
            init_cfg: accepted for the dialect; the head has initial values of its own.
            **kwargs: arguments of ``AnchorHead``.

        Raises:
            ConfigError: unknown ``anchor_type``.
        """
        if anchor_type not in ("anchor_free", "anchor_based"):
            raise ConfigError(
                f"TOODHead.anchor_type: found {anchor_type!r}; expected 'anchor_free' or 'anchor_based'."
            )
        self.num_dcn, self.anchor_type, self.stacked_convs = num_dcn, anchor_type, stacked_convs
        self.conv_cfg, self.norm_cfg = conv_cfg, norm_cfg
        super().__init__(reg_decoded_bbox=reg_decoded_bbox, train_cfg=train_cfg, init_cfg=init_cfg, **kwargs)
        self.initial_loss_cls = initial_loss_cls or FocalLoss(activated=True)
        self.epoch = 0

    def _make_layers(self) -> None:
        width, count = self.feat_channels, self.stacked_convs
        self.inter_convs = nn.ModuleList(
            ConvModule(
                self.in_channels if i == 0 else width,
                width,
                3,
                padding=1,
                conv_cfg=DCN_V2_4 if i < self.num_dcn else self.conv_cfg,
                norm_cfg=self.norm_cfg,
            )
            for i in range(count)
        )
        for name in ("cls_decomp", "reg_decomp"):
            part = TaskDecomposition(width, count, count * 8, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
            self.add_module(name, part)
        self.tood_cls = nn.Conv2d(width, self.num_base_priors * self.cls_out_channels, 3, padding=1)
        self.tood_reg = nn.Conv2d(width, self.num_base_priors * 4, 3, padding=1)
        for name, channels in (("cls_prob_module", 1), ("reg_offset_module", 8)):
            inner = nn.Conv2d(width * count, width // 4, 1)
            outer = nn.Conv2d(width // 4, channels, 3, padding=1)
            self.add_module(name, nn.Sequential(inner, nn.ReLU(inplace=True), outer))
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def init_weights(self) -> None:
        """Normal weights; scores start at 0.01."""
        init_conv_modules(self)
        for module in self.inter_convs:
            assert isinstance(module, ConvModule)
            normal_(module.conv, 0.01)
        for part in (self.cls_decomp, self.reg_decomp):
            part.init_weights()
        normal_(self.cls_prob_module[0], 0.01)
        normal_(self.cls_prob_module[2], 0.01, RARE_BIAS)
        normal_(self.reg_offset_module[0], 0.001)
        normal_(self.reg_offset_module[2], 0.001)
        normal_(self.tood_cls, 0.01, RARE_BIAS)
        normal_(self.tood_reg, 0.01)

    def set_progress(self, *, epoch: int, iteration: int) -> None:
        """Say which epoch of the run it is, counted from 0."""
        self.epoch = epoch

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives probabilities (B, C, h, w) and boxes (B, 4, h, w) in strides."""
        layers = []
        for conv in self.inter_convs:
            x = conv(x)
            layers.append(x)
        feat = torch.cat(layers, dim=1)
        average = functional.adaptive_avg_pool2d(feat, (1, 1))
        logits = self.tood_cls(self.cls_decomp(feat, average))
        scores = geometric_mean(logits, self.cls_prob_module(feat))
        boxes = self._boxes(self.tood_reg(self.reg_decomp(feat, average)), level)
        moved = shifted_sides(boxes, self.reg_offset_module(feat))
        crossed = (moved[:, :1] > moved[:, 2:3]) | (moved[:, 1:2] > moved[:, 3:])
        return scores, torch.where(crossed, boxes, moved)

    def _boxes(self, values: Tensor, level: int) -> Tensor:
        """Boxes (B, 4, h, w) in strides of raw values (B, 4, h, w)."""
        batch, _, height, width = values.shape
        stride = self.prior_generator.strides[level][0]
        sizes = [(height, width) if i == level else (0, 0) for i in range(self.prior_generator.num_levels)]
        anchors = self.prior_generator.grid_priors(sizes, values.device)[level]
        if self.anchor_type == "anchor_free":
            reach = self.scales[level](values.exp()).float()
            x, y = (anchor_centres(anchors) / stride).T.reshape(2, 1, height, width)
            points = torch.stack((x, y), dim=1)
            return torch.cat((points - reach[:, :2], points + reach[:, 2:]), dim=1)
        deltas = flatten_levels([self.scales[level](values).float()], 4).flatten(0, 1)
        boxes = self.bbox_coder.decode(anchors.repeat(batch, 1), deltas) / stride
        return boxes.reshape(batch, height, width, 4).permute(0, 3, 1, 2)

    def row_strides(self, counts: Sequence[int], like: Tensor) -> Tensor:
        """Stride (P, 1) in pixels of every anchor of one image."""
        strides = like.new_tensor([s[0] for s in self.prior_generator.strides])
        return strides.repeat_interleave(torch.tensor(tuple(counts), device=like.device))[:, None]

    def loss(
        self, raw: RawOutputs, targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """loss_cls and loss_bbox over the sum of the alignment; at first over positives and centredness."""
        spec, sizes = self.training_settings(), map_sizes(raw[0])
        assert isinstance(spec, TOODTrainSpec), "TOODHead takes its own training settings"
        scores, boxes = flatten_levels(raw[0], self.cls_out_channels), flatten_levels(raw[1], 4)
        strides = self.row_strides(self.level_counts(sizes), boxes)
        first = self.epoch < spec.initial_epoch and spec.initial_assigner is not None
        found, aligned = self._assign(
            first, sizes, scores.detach(), (boxes * strides).detach(), targets, metas
        )
        rows, scores = found.pos_rows, scores.flatten(0, 1)
        labels = found.labels(len(scores), self.num_classes)
        weights = found.weights(len(scores), spec.pos_weight)
        if first:
            central = centredness(anchor_centres(found.pos_anchors), found.pos_gt_boxes)
            cls = self.initial_loss_cls(scores, labels, weights, avg_factor=1.0)
        else:
            central = aligned
            quality = scores.new_zeros(len(scores))
            quality[rows] = aligned
            cls = self.loss_cls(scores, (labels, quality), weights, avg_factor=1.0)
        unit = strides[rows % len(strides)]
        reg = self.loss_bbox(boxes.flatten(0, 1)[rows], found.pos_gt_boxes / unit, central, avg_factor=1.0)
        return {
            "loss_cls": cls / process_mean(aligned.sum(), like=scores),
            "loss_bbox": reg / process_mean(central.sum(), like=scores),
        }

    def _assign(
        self,
        first: bool,
        sizes: Sequence[tuple[int, int]],
        scores: Tensor,
        boxes: Tensor,
        targets: Sequence[Targets],
        metas: Sequence[ImageMeta],
    ) -> tuple[AnchorTargets, Tensor]:
        """Targets, and the normalised alignment (S,) of the positives, 1 in the first epochs.

        ``scores`` (B, P, C) and ``boxes`` (B, P, 4) in pixels are what the head predicts.
        """
        spec = self.training_settings()
        assert isinstance(spec, TOODTrainSpec), "TOODHead takes its own training settings"
        metrics, overlaps = scores.new_zeros(scores.shape[:2]), scores.new_zeros(scores.shape[:2])
        assigner: Any = spec.initial_assigner if first else spec.assigner

        def assign(image: int, anchors: Tensor, rows: Tensor | None) -> Assignment:
            chosen = slice(None) if rows is None else rows
            target = targets[image]
            assert isinstance(assigner, TaskAlignedAssigner), "TOODHead assigns by alignment"
            found = assigner.assign_aligned(
                scores[image, chosen],
                boxes[image, chosen],
                anchors,
                target.boxes,
                target.labels,
                alpha=spec.alpha,
                beta=spec.beta,
            )
            metrics[image, chosen], overlaps[image, chosen] = found.metric, found.overlap
            return found

        found = anchor_targets(
            self.prior_generator,
            sizes,
            targets,
            metas,
            assigner=assigner,
            sampler=PseudoSampler(),
            allowed_border=spec.allowed_border,
            with_labels=True,
            assign=None if first else assign,
        )
        if first:
            return found, torch.ones_like(found.pos_rows, dtype=scores.dtype)
        starts = torch.tensor([0, *accumulate(len(t.boxes) for t in targets)], device=scores.device)
        owner = found.pos_gt_index + starts[found.pos_rows // scores.shape[1]]
        metric, overlap = metrics.flatten()[found.pos_rows], overlaps.flatten()[found.pos_rows]
        largest, best = (
            x.new_zeros(int(starts[-1])).scatter_reduce_(0, owner, x, "amax")[owner]
            for x in (metric, overlap)
        )
        return found, metric / (largest + 1e-7) * best

    @torch.no_grad()
    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images before suppression; boxes are not clipped."""
        priors = self.prior_generator.grid_priors(map_sizes(raw[0]), raw[0][0].device)
        results = []
        for b, meta in enumerate(metas):
            found = candidates(
                [m[b] for m in raw[0]],
                [m[b] for m in raw[1]],
                priors,
                meta,
                self.decode_chosen,
                spec=self.test_cfg,
                channels=self.cls_out_channels,
                activation=lambda scores: scores,
            )
            results.append(to_original(found, meta, rescale=rescale))
        return results

    def decode_chosen(self, level: int, priors: Tensor, values: Tensor, hw: tuple[int, int]) -> Tensor:
        """Boxes (K, 4) of K boxes in strides."""
        return values * self.prior_generator.strides[level][0]
