"""SABL for RetinaNet: each side of a box by bucket and offset.

Shapes: B images, L levels, P cells of all levels, C classes, S buckets of a side.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Wang et al., ECCV 2020, arXiv:1912.04260. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/sabl_retina_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detector.layers.init import InitRules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.losses.focal import FocalLoss
from detector.losses.smooth_l1 import SmoothL1Loss
from detector.models.dense_heads.anchor_head import AnchorHead, AnchorTrainSpec
from detector.models.dense_heads.anchor_targets import AnchorTargets, flatten_levels, map_sizes
from detector.models.dense_heads.approx_targets import approx_targets
from detector.models.dense_heads.retina import RARE_CLASS, RetinaHead, add_towers, through
from detector.models.dense_heads.selection import (
    Candidates,
    DenseTestSpec,
    cell_rows,
    pick,
    sigmoid_scores,
    softmax_scores,
    to_original,
)
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import ConvSpec, NormSpec
from detector.targets.assigners.approx_max_iou import ApproxMaxIoUAssigner
from detector.targets.coders.bucketing import BucketingBBoxCoder
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.samplers.pseudo import PseudoSampler
from detector.targets.samplers.sampling import Sampler


@dataclass(frozen=True)
class ApproxTrainSpec(AnchorTrainSpec):
    """As ``AnchorTrainSpec``, with an assigner of cells."""

    assigner: ApproxMaxIoUAssigner  # type: ignore[assignment]
    sampler: Sampler | None = None


class SABLRetinaHead(AnchorHead):
    """RetinaNet's towers; class, buckets and offsets of every cell."""

    merges_views = False
    cls_convs: nn.ModuleList
    reg_convs: nn.ModuleList

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        feat_channels: int = 256,
        approx_anchor_generator: AnchorGenerator | None = None,
        square_anchor_generator: AnchorGenerator | None = None,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        bbox_coder: BucketingBBoxCoder | None = None,
        reg_decoded_bbox: bool = False,
        train_cfg: ApproxTrainSpec | None = None,
        test_cfg: DenseTestSpec | None = None,
        loss_cls: nn.Module | None = None,
        loss_bbox_cls: nn.Module | None = None,
        loss_bbox_reg: nn.Module | None = None,
        init_cfg: InitRules = RARE_CLASS,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: classes without background.
            in_channels: channels of the feature maps.
            stacked_convs: blocks per tower.
            feat_channels: channels of the towers.
            approx_anchor_generator: boxes around a cell that decide what it stands for.
            square_anchor_generator: the box of a cell.
            conv_cfg: convolution of the towers.
            norm_cfg: norm of the towers.
            bbox_coder: between boxes and buckets.
            reg_decoded_bbox: accepted for the dialect; the losses compare buckets.
            train_cfg: assigner and sampler; None builds a head for testing only.
            test_cfg: which detections to keep.
            loss_cls: class loss.
            loss_bbox_cls: loss of the buckets.
            loss_bbox_reg: loss of the offsets.
            init_cfg: rules for the initial values.
        """
        self.stacked_convs, self.conv_cfg, self.norm_cfg = stacked_convs, conv_cfg, norm_cfg
        self.bucket_coder = bbox_coder or BucketingBBoxCoder(num_buckets=14, scale_factor=3.0)
        self.side_num = self.bucket_coder.side_num
        strides = [8, 16, 32, 64, 128]
        squares = square_anchor_generator or AnchorGenerator(ratios=[1.0], scales=[4], strides=strides)
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            feat_channels=feat_channels,
            anchor_generator=squares,
            reg_decoded_bbox=reg_decoded_bbox,
            loss_cls=FocalLoss() if loss_cls is None else loss_cls,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            init_cfg=init_cfg,
        )
        self.approx_anchor_generator = approx_anchor_generator or RetinaHead.default_anchors()
        self.loss_bbox_cls = (
            CrossEntropyLoss(use_sigmoid=True, loss_weight=1.5) if loss_bbox_cls is None else loss_bbox_cls
        )
        self.loss_bbox_reg = (
            SmoothL1Loss(beta=1 / 9, loss_weight=1.5) if loss_bbox_reg is None else loss_bbox_reg
        )

    def _make_layers(self) -> None:
        add_towers(self, self.stacked_convs, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        self.retina_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)
        self.retina_bbox_reg = nn.Conv2d(self.feat_channels, self.side_num * 4, 3, padding=1)
        self.retina_bbox_cls = nn.Conv2d(self.feat_channels, self.side_num * 4, 3, padding=1)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Any], ...]:
        """L maps (B, C_in, h, w) give L logits (B, C, h, w) and L pairs of bucket logits and offsets.

        Both of a pair are (B, 4 * S, h, w).
        """
        logits = [self.retina_cls(through(self.cls_convs, x)) for x in feats]
        hidden = [through(self.reg_convs, x) for x in feats]
        return logits, [(self.retina_bbox_cls(x), self.retina_bbox_reg(x)) for x in hidden]

    def find_targets(
        self, sizes: Sequence[tuple[int, int]], targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> AnchorTargets:
        """Assigned and sampled cells of B images, for L maps of ``sizes`` (h, w)."""
        spec = self.training_settings()
        assert isinstance(spec.assigner, ApproxMaxIoUAssigner)
        return approx_targets(
            self.approx_anchor_generator,
            self.prior_generator,
            sizes,
            targets,
            metas,
            assigner=spec.assigner,
            sampler=self.sampling or PseudoSampler(),
            allowed_border=spec.allowed_border,
            with_labels=True,
        )

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox_cls and loss_bbox_reg, scalars summed over levels, divided by the samples."""
        found = self.find_targets(map_sizes(raw[0]), targets, metas)
        count = found.num_pos + (found.num_neg if self.sampling is not None else 0)
        logits, offsets = (
            flatten_levels([pair[i] for pair in raw[1]], self.side_num * 4).flatten(0, 1)[found.pos_rows]
            for i in range(2)
        )
        wanted = self.bucket_coder.encode(found.pos_anchors, found.pos_gt_boxes)
        return {
            "loss_cls": self.class_loss(raw[0], found, count),
            "loss_bbox_cls": self.loss_bbox_cls(
                logits, wanted.labels, wanted.label_weights, avg_factor=count * 4 * self.side_num
            ),
            "loss_bbox_reg": self.loss_bbox_reg(
                offsets,
                wanted.offsets,
                wanted.offset_weights,
                avg_factor=count * 4 * self.bucket_coder.offset_topk,
            ),
        }

    @torch.no_grad()
    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images before suppression, in original pixels with ``rescale``."""
        squares = self.prior_generator.grid_priors(map_sizes(raw[0]), raw[0][0].device)
        return [
            to_original(self._select_image(raw, b, squares, meta), meta, rescale=rescale)
            for b, meta in enumerate(metas)
        ]

    def _select_image(self, raw: Any, b: int, squares: Sequence[Tensor], meta: ImageMeta) -> Candidates:
        """Candidates of one image; scores are multiplied by the sureness of the sides."""
        activation, spec = sigmoid_scores if self.use_sigmoid else softmax_scores, self.test_cfg
        parts = []
        for logits, (buckets, offsets), boxes in zip(*raw, squares, strict=True):
            scores = activation(cell_rows(logits[b], self.cls_out_channels))
            values, labels, rows = pick(scores, spec.score_thr, spec.nms_pre)
            chosen = (cell_rows(m[b], self.side_num * 4)[rows] for m in (buckets, offsets))
            decoded, sureness = self.bucket_coder.decode(boxes[rows], *chosen, max_hw=meta.input_hw)
            parts.append((decoded, values * sureness, labels, values))
        return Candidates(*(torch.cat(part) for part in zip(*parts, strict=True)))
