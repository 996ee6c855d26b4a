"""Guided anchoring: the head predicts where anchors are and how large, then classes and boxes on them.

Shapes: B images, L levels, P cells of all levels, one anchor per cell, C classes.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Wang et al., CVPR 2019, arXiv:1901.03278. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/guided_anchor_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.deform_conv import DeformConv2d
from detector.layers.init import InitRules, normal_
from detector.losses.focal import FocalLoss
from detector.losses.iou import BoundedIoULoss
from detector.losses.smooth_l1 import SmoothL1Loss
from detector.models.dense_heads.anchor_head import AnchorHead, AnchorTrainSpec, level_rows
from detector.models.dense_heads.anchor_targets import (
    AnchorTargets,
    assign_by_boxes,
    map_sizes,
    sampled_targets,
)
from detector.models.dense_heads.approx_targets import approx_targets, usable_cells
from detector.models.dense_heads.guided_anchor_targets import centre_targets
from detector.models.dense_heads.retina import rare_class
from detector.models.dense_heads.selection import (
    Candidates,
    DenseTestSpec,
    best_rows,
    cell_rows,
    sigmoid_scores,
    softmax_scores,
    to_original,
)
from detector.structures.samples import ImageMeta, Targets
from detector.targets.assigners.approx_max_iou import ApproxMaxIoUAssigner
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.samplers.pseudo import PseudoSampler
from detector.targets.samplers.sampling import Sampler

RARE_CENTRE = rare_class("conv_loc")
_SIZE_CLIP = 1e-6  # anchors may change their size by any factor


@dataclass(frozen=True)
class GuidedTrainSpec(AnchorTrainSpec):
    """How cells and guided anchors become targets.

    Attributes:
        ga_assigner: pairs cells with boxes for the anchors' sizes.
        ga_sampler: chooses among them; None takes all.
        center_ratio: share of a box that is its centre.
        ignore_ratio: share of a box around it that does not count.
    """

    ga_assigner: ApproxMaxIoUAssigner | None = None
    ga_sampler: Sampler | None = None
    center_ratio: float = 0.2
    ignore_ratio: float = 0.5


class FeatureAdaption(nn.Module):
    """Deformable convolution whose offsets follow from the anchors' sizes."""

    def __init__(self, in_channels: int, out_channels: int, *, deform_groups: int = 4) -> None:
        """3x3 kernel; ``deform_groups`` parts of the channels have offsets of their own."""
        super().__init__()
        self.conv_offset = nn.Conv2d(2, deform_groups * 18, 1, bias=False)
        self.conv_adaption = DeformConv2d(
            in_channels, out_channels, 3, padding=1, deform_groups=deform_groups
        )

    def init_weights(self) -> None:
        """Normal offsets with std 0.1, normal weights with std 0.01."""
        normal_(self.conv_offset, 0.1)
        normal_(self.conv_adaption, 0.01)

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """(B, C_in, h, w) and sizes (B, 2, h, w), which get no gradient, give (B, C_out, h, w)."""
        return functional.relu(self.conv_adaption(x, self.conv_offset(shape.detach())))


class GuidedAnchorHead(AnchorHead):
    """Location, size, class and box of one anchor per cell; base of the proposal and the RetinaNet form."""

    merges_views = False  # as a dense head; the proposals of views do merge

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        approx_anchor_generator: AnchorGenerator | None = None,
        square_anchor_generator: AnchorGenerator | None = None,
        anchor_coder: DeltaXYWHBBoxCoder | None = None,
        bbox_coder: DeltaXYWHBBoxCoder | None = None,
        reg_decoded_bbox: bool = False,
        deform_groups: int = 4,
        loc_filter_thr: float = 0.01,
        train_cfg: GuidedTrainSpec | None = None,
        test_cfg: DenseTestSpec | None = None,
        loss_loc: nn.Module | None = None,
        loss_shape: nn.Module | None = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        init_cfg: InitRules = RARE_CENTRE,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: classes without background.
            in_channels: channels of the feature maps.
            feat_channels: hidden channels.
            approx_anchor_generator: boxes around a cell that decide what it stands for.
            square_anchor_generator: the box of a cell, which predicted sizes change.
            anchor_coder: between squares and anchors.
            bbox_coder: between anchors and boxes.
            reg_decoded_bbox: the box loss compares boxes instead of deltas.
            deform_groups: parts of the channels with offsets of their own.
            loc_filter_thr: in testing, cells whose location score is below are left out.
            train_cfg: assigners and samplers; None builds a head for testing only.
            test_cfg: which detections to keep.
            loss_loc: location loss.
            loss_shape: size loss.
            loss_cls: class loss.
            loss_bbox: box loss.
            init_cfg: rules for the initial values.
        """
        strides = [4, 8, 16, 32, 64]
        squares = square_anchor_generator or AnchorGenerator(ratios=[1.0], scales=[8], strides=strides)
        self.deform_groups, self.loc_filter_thr = deform_groups, loc_filter_thr
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            feat_channels=feat_channels,
            anchor_generator=squares,
            bbox_coder=bbox_coder,
            reg_decoded_bbox=reg_decoded_bbox,
            loss_cls=loss_cls,
            loss_bbox=SmoothL1Loss() if loss_bbox is None else loss_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            init_cfg=init_cfg,
        )
        self.approx_anchor_generator = approx_anchor_generator or AnchorGenerator(
            octave_base_scale=8, scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=strides
        )
        self.anchor_coder = anchor_coder or DeltaXYWHBBoxCoder()
        self.loss_loc = FocalLoss() if loss_loc is None else loss_loc
        self.loss_shape = BoundedIoULoss() if loss_shape is None else loss_shape

    def _make_layers(self) -> None:
        self.conv_loc = nn.Conv2d(self.in_channels, 1, 1)
        self.conv_shape = nn.Conv2d(self.in_channels, 2, 1)
        width = self.feat_channels
        self.feature_adaption = FeatureAdaption(self.in_channels, width, deform_groups=self.deform_groups)
        self.conv_cls = nn.Conv2d(width, self.cls_out_channels, 1)
        self.conv_reg = nn.Conv2d(width, 4, 1)

    def init_weights(self) -> None:
        """As ``AnchorHead``, then the adaption's own values."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, FeatureAdaption):
                module.init_weights()

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives logits, deltas (B, 4, h, w), sizes (B, 2, h, w) and location (B, 1, h, w).

        In testing, logits and deltas are 0 where the location score is too low.
        """
        location, shape = self.conv_loc(x), self.conv_shape(x)
        x = self.feature_adaption(x, shape)
        return (*self.masked(self.conv_cls(x), self.conv_reg(x), location), shape, location)

    def masked(self, logits: Tensor, deltas: Tensor, location: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas with 0 where the location score is too low, in testing only."""
        if self.training:
            return logits, deltas
        keep = location.sigmoid() >= self.loc_filter_thr
        return logits * keep, deltas * keep

    @torch.no_grad()
    def guided_anchors(self, shapes: Sequence[Tensor]) -> list[Tensor]:
        """Anchors of L size maps (B, 2, h, w): L tensors (B, P_l, 4)."""
        squares = self.prior_generator.grid_priors(map_sizes(shapes), shapes[0].device)
        anchors = []
        for cells, shape in zip(squares, shapes, strict=True):
            batch = len(shape)
            growth = level_rows(shape.detach().float(), 2)
            deltas = torch.cat((torch.zeros_like(growth), growth), dim=1)
            found = self.anchor_coder.decode(cells.repeat(batch, 1), deltas, wh_ratio_clip=_SIZE_CLIP)
            anchors.append(found.reshape(batch, -1, 4))
        return anchors

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox, loss_shape and loss_loc, scalars summed over levels."""
        return self.guided_losses(raw, targets, metas, with_labels=True)

    def guided_losses(
        self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta], *, with_labels: bool
    ) -> dict[str, Tensor]:
        """The losses; ``with_labels`` False for class-agnostic heads."""
        found = self._anchor_targets(raw, targets, metas, with_labels=with_labels)
        samples = not isinstance(self.loss_cls, FocalLoss)
        count = found.num_pos + (found.num_neg if samples else 0)
        return {
            "loss_cls": self.class_loss(raw[0], found, count),
            "loss_bbox": self.box_loss(raw[1], found, count),
            "loss_shape": self._shape_loss(raw[2], targets, metas),
            "loss_loc": self._location_loss(raw[3], targets),
        }

    def guided_settings(self) -> GuidedTrainSpec:
        """The training settings."""
        spec = self.training_settings()
        assert isinstance(spec, GuidedTrainSpec)
        return spec

    def _anchor_targets(
        self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta], *, with_labels: bool
    ) -> AnchorTargets:
        """Assigned and sampled guided anchors."""
        spec, sizes, device = self.guided_settings(), map_sizes(raw[0]), raw[0][0].device
        flags = [
            usable_cells(self.approx_anchor_generator, sizes, meta, spec.allowed_border, device)
            for meta in metas
        ]
        return sampled_targets(
            list(torch.cat(self.guided_anchors(raw[2]), dim=1)),
            flags,
            targets,
            metas,
            assign=assign_by_boxes(spec.assigner, targets, self.level_counts(sizes)),
            sampler=self.sampling or PseudoSampler(),
            allowed_border=spec.allowed_border,
            with_labels=with_labels,
        )

    def _shape_loss(
        self, shapes: Sequence[Tensor], targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> Tensor:
        """Loss of the sizes of sampled cells."""
        spec = self.guided_settings()
        assert spec.ga_assigner is not None, "guided anchoring needs ga_assigner in train_cfg"
        found = approx_targets(
            self.approx_anchor_generator,
            self.prior_generator,
            map_sizes(shapes),
            targets,
            metas,
            assigner=spec.ga_assigner,
            sampler=spec.ga_sampler or PseudoSampler(),
            allowed_border=spec.allowed_border,
            with_labels=False,
        )
        count = found.num_pos + (found.num_neg if spec.ga_sampler is not None else 0)
        losses = []
        for shape, (places, rows) in zip(
            shapes, found.per_level(self.level_counts(map_sizes(shapes))), strict=True
        ):
            growth = level_rows(shape, 2)[rows]
            deltas = torch.cat((torch.zeros_like(growth), growth), dim=1)
            boxes = self.anchor_coder.decode(found.pos_anchors[places], deltas, wh_ratio_clip=_SIZE_CLIP)
            wanted = found.pos_gt_boxes[places]
            losses.append(self.loss_shape(boxes, wanted, torch.ones_like(wanted), avg_factor=count))
        return torch.stack(losses).sum()

    def _location_loss(self, locations: Sequence[Tensor], targets: Sequence[Targets]) -> Tensor:
        """Loss of the location maps.

        The reference hands its 0/1 map to a loss for which label 0 is the one class and 1 is background, so
        centres learn a low score. Kept, so that training gives the reference's numbers.
        """
        spec = self.guided_settings()
        maps, weights = centre_targets(
            [target.boxes for target in targets],
            map_sizes(locations),
            [stride[0] for stride in self.prior_generator.strides],
            anchor_scale=float(self.approx_anchor_generator.scales[0]),
            center_ratio=spec.center_ratio,
            ignore_ratio=spec.ignore_ratio,
        )
        count = sum(centre.numel() for centre in maps) / 200
        losses = [
            self.loss_loc(
                location.reshape(-1, 1), centre.flatten().long(), weight.flatten(), avg_factor=count
            )
            for location, centre, weight in zip(locations, maps, weights, strict=True)
        ]
        return torch.stack(losses).sum()

    def level_scores(
        self, raw: Any, b: int, anchors: Sequence[Tensor], limit: int, meta: ImageMeta
    ) -> list[tuple[Tensor, Tensor]]:
        """Boxes (k, 4) and scores (k, C) of the best cells of every level of image ``b``.

        Args:
            raw: raw outputs.
            b: number of the image.
            anchors: L tensors (B, P_l, 4).
            limit: most cells of a level; not above 0 keeps all.
            meta: of the image.
        """
        activation, found = sigmoid_scores if self.use_sigmoid else softmax_scores, []
        for logits, deltas, location, level_anchors in zip(raw[0], raw[1], raw[3], anchors, strict=True):
            rows = torch.nonzero(cell_rows(location[b], 1)[:, 0].sigmoid() >= self.loc_filter_thr).flatten()
            scores = activation(cell_rows(logits[b], self.cls_out_channels)[rows])
            if 0 < limit < len(rows):
                best = best_rows(scores.amax(dim=1)[None], limit)[0]
                rows, scores = rows[best], scores[best]
            chosen = cell_rows(deltas[b], 4)[rows]
            boxes = self.bbox_coder.decode(level_anchors[b][rows], chosen, max_hw=meta.input_hw)
            found.append((boxes, scores))
        return found

    @torch.no_grad()
    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images before suppression, in original pixels with ``rescale``."""
        anchors, results = self.guided_anchors(raw[2]), []
        for b, meta in enumerate(metas):
            levels = self.level_scores(raw, b, anchors, self.test_cfg.nms_pre, meta)
            boxes, scores = (torch.cat(part) for part in zip(*levels, strict=True))
            rows, labels = torch.nonzero(scores > self.test_cfg.score_thr, as_tuple=True)
            chosen = scores[rows, labels]
            results.append(
                to_original(Candidates(boxes[rows], chosen, labels, chosen), meta, rescale=rescale)
            )
        return results
