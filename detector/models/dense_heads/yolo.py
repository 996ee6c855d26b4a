"""Head of YOLOv3: every anchor predicts its box, an objectness and one score per class.

Shapes: B images, L levels (coarse to fine), A anchors per cell, P anchors of all levels, C classes, G
one image; a prediction holds 5 + C values: x, y, w, h, objectness, classes.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767.
Attribute names are the checkpoint format (MMDetection 2.28, models/dense_heads/yolo_head.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, normal_
from detector.losses.cross_entropy import binary_targets
from detector.models.dense_heads.anchor_targets import flatten_levels, map_sizes
from detector.models.dense_heads.dense_head import DenseHead
from detector.models.dense_heads.selection import Candidates, suppress, to_original
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.structures.specs import ActSpec, ConvSpec, NmsSpec, NormSpec, Spec
from detector.targets.assigners.grid import GridAssigner
from detector.targets.coders.yolo import YOLOBBoxCoder
from detector.targets.priors.yolo_anchors import YOLOAnchorGenerator
from detector.targets.samplers.sampling import negatives, positives

BATCH_NORM = NormSpec(type="BN")
LEAKY = ActSpec(type="LeakyReLU", negative_slope=0.1)
# The reference starts the objectness as if a 608 x 608 image held this many objects on every map.
PRIOR_OBJECTS, PRIOR_SIDE, PRIOR_CLASS = 8, 608, 0.01

NMS_045 = NmsSpec(iou_threshold=0.45)


@dataclass(frozen=True)
class YOLOTrainSpec(Spec):
    """How anchors become targets."""

    assigner: GridAssigner
    debug: bool = False


@dataclass(frozen=True)
class YOLOTestSpec(Spec):
    """How predictions become detections.

    Attributes:
        score_thr: class scores must exceed it, before they are multiplied by the objectness.
        conf_thr: least objectness; 0 or less keeps all.
        nms: suppression within a class.
        max_per_img: most detections of an image.
        nms_pre: accepted for the dialect; the reference does not use it.
        min_bbox_size: accepted for the dialect; the reference does not use it.
    """

    score_thr: float = 0.05
    conf_thr: float = -1.0
    nms: NmsSpec = NMS_045
    max_per_img: int = 100
    nms_pre: int = -1
    min_bbox_size: float = 0


def _logit(probability: float) -> float:
    return -math.log((1 - probability) / probability)


class YOLOV3Head(DenseHead):
    """Two convolutions per level."""

    merges_views = True

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: Sequence[int],
        anchor_generator: YOLOAnchorGenerator,
        bbox_coder: YOLOBBoxCoder,
        loss_cls: nn.Module,
        loss_conf: nn.Module,
        loss_xy: nn.Module,
        loss_wh: nn.Module,
        out_channels: Sequence[int] = (1024, 512, 256),
        featmap_strides: Sequence[int] = (32, 16, 8),
        one_hot_smoother: float = 0.0,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = BATCH_NORM,
        act_cfg: ActSpec = LEAKY,
        train_cfg: YOLOTrainSpec | None = None,
        test_cfg: YOLOTestSpec | None = None,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: classes without background.
            in_channels: channels of the feature maps.
            anchor_generator: anchors of every level.
            bbox_coder: between anchors and boxes.
            loss_cls: loss of the class scores of positive anchors.
            loss_conf: loss of the objectness of positive and background anchors.
            loss_xy: loss of the place in the cell.
            loss_wh: loss of the log sizes.
            out_channels: channels of the hidden convolution of each level.
            featmap_strides: pixels between cells of each level.
            one_hot_smoother: share of a class target spread over all classes.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            act_cfg: kind of activation.
            train_cfg: assigner; None builds a head for testing only.
            test_cfg: detections in testing.
            init_cfg: rules for the initial values, after the head's own.

        Raises:
            ConfigError: the levels of the settings differ in number.
        """
        super().__init__()
        counts = anchor_generator.num_base_priors
        if not len(in_channels) == len(out_channels) == len(featmap_strides) == len(counts):
            raise ConfigError(
                f"YOLOV3Head: found {len(in_channels)} in_channels, {len(out_channels)} out_channels, "
                f"{len(featmap_strides)} featmap_strides and anchors of {len(counts)} levels; "
                "expected equal numbers."
            )
        self.num_classes, self.featmap_strides = num_classes, tuple(featmap_strides)
        self.prior_generator, self.bbox_coder = anchor_generator, bbox_coder
        self.loss_cls, self.loss_conf, self.loss_xy, self.loss_wh = loss_cls, loss_conf, loss_xy, loss_wh
        self.one_hot_smoother, self.init_cfg = one_hot_smoother, init_cfg
        self.train_cfg, self.test_cfg = train_cfg, test_cfg or YOLOTestSpec()
        self.convs_bridge, self.convs_pred = nn.ModuleList(), nn.ModuleList()
        for width, hidden in zip(in_channels, out_channels, strict=True):
            self.convs_bridge.append(
                ConvModule(width, hidden, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
            )
            self.convs_pred.append(nn.Conv2d(hidden, counts[0] * (5 + num_classes), 1))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal convolutions with std 0.01, objectness and class biases from expected frequencies."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                normal_(layer, 0.01)
            elif isinstance(layer, (_BatchNorm, nn.GroupNorm)):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
        for conv, stride in zip(self.convs_pred, self.featmap_strides, strict=True):
            assert isinstance(conv.bias, Tensor)
            bias = conv.bias.view(-1, 5 + self.num_classes)
            bias[:, 4] = _logit(PRIOR_OBJECTS / (PRIOR_SIDE / stride) ** 2)
            bias[:, 5:] = _logit(PRIOR_CLASS)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def forward(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """L maps (B, C_in, h, w) give L maps (B, A * (5 + C), h, w)."""
        parts = zip(feats, self.convs_bridge, self.convs_pred, strict=True)
        return [predict(bridge(x)) for x, bridge, predict in parts]

    def _strides(self, anchors: Sequence[Tensor]) -> Tensor:
        """Stride of every anchor, (P,)."""
        parts = zip(anchors, self.featmap_strides, strict=True)
        return torch.cat([a.new_full((len(a),), float(stride)) for a, stride in parts])

    def loss(
        self, raw: Sequence[Tensor], targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """loss_cls, loss_conf, loss_xy and loss_wh, each summed over the levels."""
        sizes = map_sizes(raw)
        anchors = self.prior_generator.grid_priors(sizes, raw[0].device)
        found = [self._image_targets(target, anchors, sizes) for target in targets]
        wanted, background = (torch.stack(parts) for parts in zip(*found, strict=True))
        counts = [len(level) for level in anchors]
        totals: dict[str, Tensor] = {}
        for pred_map, goal, negative in zip(
            raw, wanted.split(counts, dim=1), background.split(counts, dim=1), strict=True
        ):
            pred = flatten_levels([pred_map.float()], 5 + self.num_classes)
            positive = goal[..., 4]
            mask = positive[..., None]
            losses = {
                "loss_cls": self.loss_cls(pred[..., 5:], goal[..., 5:], mask),
                "loss_conf": self.loss_conf(
                    pred[..., 4], positive, torch.maximum(positive, negative.to(pred))
                ),
                "loss_xy": self.loss_xy(pred[..., :2], goal[..., :2], mask),
                "loss_wh": self.loss_wh(pred[..., 2:4], goal[..., 2:4], mask),
            }
            totals = {name: totals[name] + value if totals else value for name, value in losses.items()}
        return totals

    def _image_targets(
        self, target: Targets, anchors: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Goals (P, 5 + C) and background flags (P,) of one image."""
        if self.train_cfg is None:
            raise RuntimeError("YOLOV3Head was built without train_cfg and cannot compute a loss.")
        priors = torch.cat(list(anchors))
        responsible = torch.cat(self.prior_generator.responsible_flags(sizes, target.boxes))
        index = self.train_cfg.assigner.assign(priors, responsible, target.boxes).gt_index
        rows = positives(index)
        chosen = index[rows]
        goal = priors.new_zeros(len(priors), 5 + self.num_classes)
        goal[rows, :4] = self.bbox_coder.encode(
            priors[rows], target.boxes.reshape(-1, 4)[chosen], self._strides(anchors)[rows]
        )
        goal[rows, 4] = 1
        smooth = self.one_hot_smoother
        one_hot = binary_targets(target.labels[chosen], self.num_classes)
        goal[rows, 5:] = one_hot * (1 - smooth) + smooth / self.num_classes
        background = torch.zeros(len(priors), dtype=torch.bool, device=priors.device)
        background[negatives(index)] = True
        return goal, background

    @torch.no_grad()
    def select(self, raw: Sequence[Tensor], metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images before suppression; boxes are not clipped to the image."""
        anchors = self.prior_generator.grid_priors(map_sizes(raw), raw[0].device)
        flat = flatten_levels([level.float() for level in raw], 5 + self.num_classes)
        codes = torch.cat((flat[..., :2].sigmoid(), flat[..., 2:4]), dim=-1)
        boxes = self.bbox_coder.decode(torch.cat(anchors), codes, self._strides(anchors))
        objectness, scores = flat[..., 4].sigmoid(), flat[..., 5:].sigmoid()
        return [
            to_original(self._likely(boxes[i], objectness[i], scores[i]), meta, rescale=rescale)
            for i, meta in enumerate(metas)
        ]

    def _likely(self, boxes: Tensor, objectness: Tensor, scores: Tensor) -> Candidates:
        """Those of (P, 4) boxes of one image that are sure enough of an object and of a class."""
        spec = self.test_cfg
        if spec.conf_thr > 0:
            keep = objectness >= spec.conf_thr
            boxes, objectness, scores = boxes[keep], objectness[keep], scores[keep]
        rows, labels = torch.nonzero(scores > spec.score_thr, as_tuple=True)
        class_scores = scores[rows, labels]
        return Candidates(boxes[rows], class_scores * objectness[rows], labels, class_scores)

    def predict(
        self, raw: Sequence[Tensor], metas: Sequence[ImageMeta], *, rescale: bool
    ) -> list[Detections]:
        """Detections of B images by descending score, in original pixels with ``rescale``."""
        return [suppress(found, self.test_cfg) for found in self.select(raw, metas, rescale=rescale)]
