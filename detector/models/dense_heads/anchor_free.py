"""What heads on points share: two towers of convolutions, scores and distances per point.

Shapes: B images, L levels, C classes, P points of all levels.
Boxes: xyxy, pixels of the padded network input, no +1.
Paper: Tian et al., ICCV 2019, arXiv:1904.01355. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/anchor_free_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.losses.focal import FocalLoss
from detector.losses.iou import IoULoss
from detector.models.dense_heads.anchor_targets import map_sizes
from detector.models.dense_heads.dense_head import DenseHead
from detector.models.dense_heads.selection import (
    Candidates,
    DenseTestSpec,
    candidates,
    sigmoid_scores,
    softmax_scores,
    suppress,
    to_original,
)
from detector.structures.samples import Detections, ImageMeta
from detector.structures.specs import ConvSpec, InitSpec, NormSpec, Spec
from detector.targets.coders.distance_point import DistancePointBBoxCoder
from detector.targets.priors.points import MlvlPointGenerator

DCN_V2 = ConvSpec(type="DCNv2")


def towers_init(std: float = 0.01, predictor: str = "conv_cls") -> InitSpec:
    """Normal convolutions of ``std``; the scores named ``predictor`` start at 0.01."""
    start = {"type": "Normal", "name": predictor, "std": std, "bias_prob": 0.01}
    return InitSpec(type="Normal", layer="Conv2d", std=std, override=start)


NORMAL_TOWERS = towers_init()


@dataclass(frozen=True)
class PointTrainSpec(Spec):
    """Training settings that heads without an assigner accept; their targets follow from the points alone."""

    assigner: Any = None
    sampler: Any = None
    allowed_border: float = -1
    pos_weight: float = -1
    debug: bool = False


class AnchorFreeHead(DenseHead):
    """Towers ``cls_convs`` and ``reg_convs`` with the outputs ``conv_cls`` and ``conv_reg``."""

    _version = 1
    merges_views = True

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        dcn_on_last_conv: bool = False,
        conv_bias: bool | str = "auto",
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        bbox_coder: Any = None,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        train_cfg: PointTrainSpec | None = None,
        test_cfg: DenseTestSpec | None = None,
        init_cfg: InitRules = NORMAL_TOWERS,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: classes without background.
            in_channels: channels of the feature maps.
            feat_channels: channels of the towers.
            stacked_convs: convolutions of each tower.
            strides: pixels between points of each level.
            dcn_on_last_conv: the last convolution of each tower is a modulated deformable one.
            conv_bias: bias in the towers; 'auto' means only without a norm.
            loss_cls: loss of the scores, default focal; its ``use_sigmoid`` decides on a background channel.
            loss_bbox: loss of the boxes, default IoU.
            bbox_coder: between points and boxes, default ``DistancePointBBoxCoder``.
            conv_cfg: convolution of the towers.
            norm_cfg: norm of the towers.
            train_cfg: training settings.
            test_cfg: selection of detections.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.num_classes, self.in_channels, self.feat_channels = num_classes, in_channels, feat_channels
        self.stacked_convs, self.strides = stacked_convs, tuple(strides)
        self.dcn_on_last_conv, self.conv_cfg, self.norm_cfg = dcn_on_last_conv, conv_cfg, norm_cfg
        self.conv_bias = None if conv_bias == "auto" else bool(conv_bias)
        self.loss_cls = loss_cls or FocalLoss(use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
        self.loss_bbox = loss_bbox or IoULoss(loss_weight=1.0)
        self.use_sigmoid = bool(getattr(self.loss_cls, "use_sigmoid", False))
        self.cls_out_channels = num_classes if self.use_sigmoid else num_classes + 1
        self.bbox_coder = bbox_coder or DistancePointBBoxCoder()
        self.prior_generator = MlvlPointGenerator(strides=self.strides)
        self.train_cfg, self.test_cfg, self.init_cfg = train_cfg, test_cfg or DenseTestSpec(), init_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Create the towers and outputs."""
        self.cls_convs, self.reg_convs = self._tower(), self._tower()
        self.conv_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)
        self.conv_reg = nn.Conv2d(self.feat_channels, 4, 3, padding=1)

    def _tower(self) -> nn.ModuleList:
        """The convolutions in front of one output."""
        return nn.ModuleList(
            ConvModule(
                self.in_channels if i == 0 else self.feat_channels,
                self.feat_channels,
                3,
                padding=1,
                conv_cfg=DCN_V2 if self.dcn_on_last_conv and i == self.stacked_convs - 1 else self.conv_cfg,
                norm_cfg=self.norm_cfg,
                bias=self.conv_bias,
            )
            for i in range(self.stacked_convs)
        )

    def init_weights(self) -> None:
        """Normal convolutions with std 0.01 and scores near 0.01 unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def towers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One map (B, C_in, h, w) gives the features of both towers."""
        cls_feat = reg_feat = x
        for layer in self.cls_convs:
            cls_feat = layer(cls_feat)
        for layer in self.reg_convs:
            reg_feat = layer(reg_feat)
        return cls_feat, reg_feat

    def decode_chosen(self, level: int, points: Tensor, values: Tensor, hw: tuple[int, int]) -> Tensor:
        """Boxes (K, 4), clipped to ``hw``, of K points and their box columns."""
        return self.bbox_coder.decode(points, values, max_hw=hw)

    @torch.no_grad()
    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images before suppression, in original pixels with ``rescale``.

        A third list of raw outputs holds logits whose sigmoid multiplies the scores.
        """
        logits, boxes, quality = raw[0], raw[1], raw[2] if len(raw) > 2 else None
        points = self.prior_generator.grid_priors(map_sizes(logits), logits[0].device)
        results = []
        for b, meta in enumerate(metas):
            found = candidates(
                [m[b] for m in logits],
                [m[b] for m in boxes],
                points,
                meta,
                self.decode_chosen,
                spec=self.test_cfg,
                channels=self.cls_out_channels,
                activation=sigmoid_scores if self.use_sigmoid else softmax_scores,
                factors=None if quality is None else [m[b] for m in quality],
            )
            results.append(to_original(found, meta, rescale=rescale))
        return results

    def predict(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Detections]:
        """Detections of B images, best first, in original pixels with ``rescale``."""
        return [suppress(found, self.test_cfg) for found in self.select(raw, metas, rescale=rescale)]
