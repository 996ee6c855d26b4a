"""YOLOX: class, box and objectness on every point, with layers of their own per level.

Shapes: B images, L levels, C classes, P points of all levels, G boxes of one image, S positive points.
Boxes: xyxy, pixels of the padded network input, no +1. Points: upper left corner of
the cell (x, y), strides (x, y).
Paper: Ge et al., 2021, arXiv:2107.08430. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/yolox_head.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.csp import SWISH, YOLO_BN, YOLO_INIT, spatial_conv
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.losses.iou import IoULoss
from detector.losses.process_mean import process_mean
from detector.losses.smooth_l1 import L1Loss
from detector.models.dense_heads.anchor_free import DCN_V2
from detector.models.dense_heads.anchor_targets import flatten_levels, map_sizes
from detector.models.dense_heads.dense_head import DenseHead
from detector.ops.nms import batched_nms
from detector.structures.boxes import rescale_to_original
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.structures.specs import ActSpec, ConvSpec, NmsSpec, NormSpec, Spec
from detector.targets.assigners.sim_ota import SimOTAAssigner
from detector.targets.priors.points import MlvlPointGenerator

RawOutputs = tuple[list[Tensor], list[Tensor], list[Tensor]]
NMS_065 = NmsSpec(iou_threshold=0.65)


@dataclass(frozen=True)
class YOLOXTrainSpec(Spec):
    """How points become targets."""

    assigner: SimOTAAssigner


@dataclass(frozen=True)
class YOLOXTestSpec(Spec):
    """How raw outputs become detections; scores must reach ``score_thr``, ``max_per_img`` -1 keeps all."""

    score_thr: float = 0.01
    nms: NmsSpec = NMS_065
    max_per_img: int = -1


@dataclass(frozen=True)
class PointTargets:
    """What the points of one image should predict.

    Attributes:
        rows: (S,) int64 positive points.
        scores: (S, C) IoU at the class of the box, 0 elsewhere.
        boxes: (S, 4).
    """

    rows: Tensor
    scores: Tensor
    boxes: Tensor


class YOLOXHead(DenseHead):
    """The head.

    Attributes:
        use_l1: whether the raw box values get a loss of their own, as in the last epochs of a training.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        stacked_convs: int = 2,
        strides: Sequence[int] = (8, 16, 32),
        use_depthwise: bool = False,
        dcn_on_last_conv: bool = False,
        conv_bias: bool | str = "auto",
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = YOLO_BN,
        act_cfg: ActSpec | None = SWISH,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        loss_obj: nn.Module | None = None,
        loss_l1: nn.Module | None = None,
        train_cfg: YOLOXTrainSpec | None = None,
        test_cfg: YOLOXTestSpec | None = None,
        init_cfg: InitRules = YOLO_INIT,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: classes without background.
            in_channels: channels of the feature maps.
            feat_channels: channels of the hidden convolutions.
            stacked_convs: hidden convolutions of each branch.
            strides: pixels between points of each level.
            use_depthwise: depthwise separable hidden convolutions.
            dcn_on_last_conv: the last hidden convolution is a modulated deformable one.
            conv_bias: bias of hidden convolutions; 'auto' means only without a norm.
            conv_cfg: hidden convolutions.
            norm_cfg: their norm.
            act_cfg: their activation.
            loss_cls: class loss, summed; default binary cross entropy.
            loss_bbox: box loss, summed; default 5 (1 - IoU^2).
            loss_obj: objectness loss, summed; default binary cross entropy.
            loss_l1: loss of the raw box values, summed.
            train_cfg: assigner; None builds a head for testing only.
            test_cfg: selection of detections.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.num_classes, self.in_channels, self.feat_channels = num_classes, in_channels, feat_channels
        self.loss_cls = loss_cls or CrossEntropyLoss(use_sigmoid=True, reduction="sum")
        self.loss_bbox = loss_bbox or IoULoss(mode="square", eps=1e-16, reduction="sum", loss_weight=5.0)
        self.loss_obj = loss_obj or CrossEntropyLoss(use_sigmoid=True, reduction="sum")
        self.loss_l1 = loss_l1 or L1Loss(reduction="sum")
        self.train_cfg, self.test_cfg, self.init_cfg = train_cfg, test_cfg or YOLOXTestSpec(), init_cfg
        self.prior_generator = MlvlPointGenerator(strides=strides, offset=0)
        self.use_l1 = False
        bias = None if conv_bias == "auto" else bool(conv_bias)

        def branch() -> nn.Sequential:
            return nn.Sequential(
                *[
                    spatial_conv(
                        in_channels if i == 0 else feat_channels,
                        feat_channels,
                        use_depthwise=use_depthwise,
                        bias=bias,
                        conv_cfg=DCN_V2 if dcn_on_last_conv and i == stacked_convs - 1 else conv_cfg,
                        norm_cfg=norm_cfg,
                        act_cfg=act_cfg,
                    )
                    for i in range(stacked_convs)
                ]
            )

        levels = range(len(strides))
        self.multi_level_cls_convs = nn.ModuleList(branch() for _ in levels)
        self.multi_level_reg_convs = nn.ModuleList(branch() for _ in levels)
        self.multi_level_conv_cls = nn.ModuleList(nn.Conv2d(feat_channels, num_classes, 1) for _ in levels)
        self.multi_level_conv_reg = nn.ModuleList(nn.Conv2d(feat_channels, 4, 1) for _ in levels)
        self.multi_level_conv_obj = nn.ModuleList(nn.Conv2d(feat_channels, 1, 1) for _ in levels)

    def init_weights(self) -> None:
        """Uniform Kaiming values unless ``init_cfg`` says otherwise; classes and objectness start at 0.01."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
        for layer in (*self.multi_level_conv_cls, *self.multi_level_conv_obj):
            nn.init.constant_(layer.bias, -math.log(99))

    def forward(self, feats: Sequence[Tensor]) -> RawOutputs:
        """L maps (B, C_in, h, w) give L logits (B, C, h, w), boxes (B, 4, ..) and objectness (B, 1, ..)."""
        scores, boxes, objectness = [], [], []
        for level, x in enumerate(feats):
            reg_feat = self.multi_level_reg_convs[level](x)
            scores.append(self.multi_level_conv_cls[level](self.multi_level_cls_convs[level](x)))
            boxes.append(self.multi_level_conv_reg[level](reg_feat))
            objectness.append(self.multi_level_conv_obj[level](reg_feat))
        return scores, boxes, objectness

    def _flat(self, raw: RawOutputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (B, P, C), raw boxes (B, P, 4), objectness logits (B, P) and points (P, 4), float32."""
        priors = self.prior_generator.grid_priors(map_sizes(raw[0]), raw[0][0].device, with_stride=True)
        return (
            flatten_levels(raw[0], self.num_classes).float(),
            flatten_levels(raw[1], 4).float(),
            flatten_levels(raw[2], 1)[..., 0].float(),
            torch.cat(priors),
        )

    @staticmethod
    def decode(priors: Tensor, values: Tensor) -> Tensor:
        """Boxes (..., P, 4) of (P, 4) points; values are the centre and the log of the size, in strides."""
        centre = values[..., :2] * priors[:, 2:] + priors[:, :2]
        half = values[..., 2:].exp() * priors[:, 2:] / 2
        return torch.cat((centre - half, centre + half), dim=-1)

    @staticmethod
    def encode(priors: Tensor, boxes: Tensor) -> Tensor:
        """Raw values (S, 4) of (S, 4) boxes at (S, 4) points; the inverse of ``decode``."""
        centre, size = (boxes[:, :2] + boxes[:, 2:]) * 0.5, boxes[:, 2:] - boxes[:, :2]
        log_size = torch.log(size / priors[:, 2:] + 1e-8)
        return torch.cat(((centre - priors[:, :2]) / priors[:, 2:], log_size), dim=1)

    def loss(
        self, raw: RawOutputs, targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """loss_cls, loss_bbox, loss_obj (and loss_l1 with ``use_l1``), scalars per positive point."""
        logits, values, objectness, priors = self._flat(raw)
        boxes = self.decode(priors, values)
        found = [
            self.point_targets(logits[i].detach(), objectness[i].detach(), priors, boxes[i].detach(), target)
            for i, target in enumerate(targets)
        ]
        rows = torch.cat([f.rows + i * len(priors) for i, f in enumerate(found)])
        wanted_boxes = torch.cat([f.boxes for f in found])
        wanted_objectness = torch.zeros_like(objectness).flatten()
        wanted_objectness[rows] = 1
        count = process_mean(len(rows), like=logits)
        losses = {
            "loss_cls": self.loss_cls(logits.flatten(0, 1)[rows], torch.cat([f.scores for f in found])),
            "loss_bbox": self.loss_bbox(boxes.flatten(0, 1)[rows], wanted_boxes),
            "loss_obj": self.loss_obj(objectness.reshape(-1, 1), wanted_objectness[:, None]),
        }
        if self.use_l1:
            wanted = self.encode(priors[rows % len(priors)], wanted_boxes)
            losses["loss_l1"] = self.loss_l1(values.flatten(0, 1)[rows], wanted)
        return {name: value / count for name, value in losses.items()}

    @torch.no_grad()
    def point_targets(
        self, logits: Tensor, objectness: Tensor, priors: Tensor, boxes: Tensor, target: Targets
    ) -> PointTargets:
        """Assign the points of one image by its predictions.

        Args:
            logits: (P, C) class logits.
            objectness: (P,) logits.
            priors: (P, 4).
            boxes: (P, 4) predicted boxes.
            target: ground truth; empty ones give no positive point.

        Raises:
            RuntimeError: the head was built without training settings.
        """
        if self.train_cfg is None:
            raise RuntimeError("YOLOXHead was built without train_cfg and cannot compute a loss.")
        centres = torch.cat((priors[:, :2] + priors[:, 2:] * 0.5, priors[:, 2:]), dim=1)
        scores = logits.sigmoid() * objectness.sigmoid()[:, None]
        assignment = self.train_cfg.assigner.assign(scores, centres, boxes, target.boxes, target.labels)
        rows = torch.nonzero(assignment.gt_index >= 0).flatten()
        owner = assignment.gt_index[rows]
        one_hot = functional.one_hot(target.labels[owner], self.num_classes)
        return PointTargets(rows, one_hot * assignment.overlap[rows][:, None], target.boxes[owner])

    @torch.no_grad()
    def predict(self, raw: RawOutputs, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Detections]:
        """Detections of B images; each point speaks for its best class only."""
        logits, values, objectness, priors = self._flat(raw)
        boxes = self.decode(priors, values)
        best, labels = logits.sigmoid().max(dim=2)
        scores = objectness.sigmoid() * best
        results = []
        for i, meta in enumerate(metas):
            rows = torch.nonzero(scores[i] >= self.test_cfg.score_thr).flatten()
            found = boxes[i, rows]
            if rescale:
                found = rescale_to_original(found, meta.scale_factor)
            kept, kept_scores = batched_nms(found, scores[i, rows], labels[i, rows], self.test_cfg.nms)
            if self.test_cfg.max_per_img > 0:
                kept, kept_scores = (x[: self.test_cfg.max_per_img] for x in (kept, kept_scores))
            results.append(Detections(found[kept], kept_scores, labels[i, rows][kept]))
        return results
