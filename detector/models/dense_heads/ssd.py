"""Head of SSD: one pair of convolutions per level, with the hardest background anchors in the loss.

Shapes: B images, L levels, A_l anchors per cell of level l, P anchors of all levels, C classes.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325.
With ``isr`` and ``carl`` in its training settings it is the head of PISA: Cao et al., CVPR 2020,
arXiv:1904.04821.
Attribute names are the checkpoint format (MMDetection 2.28, models/dense_heads/ssd_head.py and
pisa_ssd_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.depthwise import DepthwiseSeparableConvModule
from detector.layers.init import InitRules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.losses.pisa import carl_loss, prime_weights
from detector.losses.smooth_l1 import SmoothL1Loss
from detector.models.dense_heads.anchor_head import AnchorHead, AnchorTrainSpec
from detector.models.dense_heads.anchor_targets import AnchorTargets, flatten_levels, map_sizes
from detector.models.dense_heads.selection import DenseTestSpec
from detector.ops.iou import aligned_iou
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import ActSpec, ConvSpec, InitSpec, NormSpec, Spec
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.priors.ssd_anchors import SSDAnchorGenerator

XAVIER_CONV = InitSpec(type="Xavier", layer="Conv2d", distribution="uniform")


@dataclass(frozen=True)
class RankSpec(Spec):
    """Weights of prime samples: ``k`` is the power, ``bias`` the least weight before it."""

    k: float = 2.0
    bias: float = 0.0


@dataclass(frozen=True)
class CarlSpec(Spec):
    """Weights of boxes by class score: ``k`` is the power, ``bias`` the least weight before it."""

    k: float = 1.0
    bias: float = 0.2


@dataclass(frozen=True)
class SSDTrainSpec(AnchorTrainSpec):
    """How anchors become targets.

    Attributes:
        smoothl1_beta: where the two parts of the box loss meet, in units of the deltas.
        neg_pos_ratio: hardest background anchors in the class loss per positive one, image by image.
        isr: weights of the positives in the class loss (PISA); None weighs them alike.
        carl: a further box loss weighted by class scores (PISA); None leaves it out.
    """

    smoothl1_beta: float = 1.0
    neg_pos_ratio: int = 3
    isr: RankSpec | None = None
    carl: CarlSpec | None = None


class SSDHead(AnchorHead):
    """Softmax classes and boxes of every default box."""

    train_cfg: SSDTrainSpec | None

    def __init__(
        self,
        *,
        num_classes: int = 80,
        in_channels: Sequence[int] = (512, 1024, 512, 256, 256, 256),
        stacked_convs: int = 0,
        feat_channels: int = 256,
        use_depthwise: bool = False,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        act_cfg: ActSpec | None = None,
        anchor_generator: AnchorGenerator | None = None,
        bbox_coder: DeltaXYWHBBoxCoder | None = None,
        reg_decoded_bbox: bool = False,
        train_cfg: SSDTrainSpec | None = None,
        test_cfg: DenseTestSpec | None = None,
        init_cfg: InitRules = XAVIER_CONV,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: classes without background.
            in_channels: channels of each feature map.
            stacked_convs: hidden convolutions before each prediction.
            feat_channels: channels of hidden convolutions.
            use_depthwise: depthwise 3 x 3 and 1 x 1 convolutions (SSDLite) instead of 3 x 3 ones.
            conv_cfg: kind of hidden convolutions.
            norm_cfg: kind of norm of hidden convolutions.
            act_cfg: activation of hidden convolutions.
            anchor_generator: anchors of every level.
            bbox_coder: between anchors and boxes.
            reg_decoded_bbox: the box loss compares boxes instead of deltas.
            train_cfg: assigner and mining; None builds a head for testing only.
            test_cfg: which detections to keep.
            init_cfg: rules for the initial values.

        Raises:
            ConfigError: feature maps and anchors differ in number.
        """
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels[0],
            feat_channels=feat_channels,
            anchor_generator=anchor_generator,
            bbox_coder=bbox_coder,
            reg_decoded_bbox=reg_decoded_bbox,
            loss_cls=CrossEntropyLoss(reduction="none"),
            loss_bbox=SmoothL1Loss(beta=1.0 if train_cfg is None else train_cfg.smoothl1_beta),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            init_cfg=init_cfg,
        )
        counts = self.prior_generator.num_base_priors
        if len(counts) != len(in_channels):
            raise ConfigError(
                f"SSDHead: found {len(in_channels)} in_channels and anchors of {len(counts)} levels; "
                "expected equal "
                "numbers."
            )
        kinds: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.cls_convs, self.reg_convs = nn.ModuleList(), nn.ModuleList()
        for width, count in zip(in_channels, counts, strict=True):
            for branch, channels in ((self.cls_convs, self.cls_out_channels), (self.reg_convs, 4)):
                hidden = self._hidden(width, stacked_convs, depthwise=use_depthwise, kinds=kinds)
                last = feat_channels if stacked_convs else width
                kernel = 1 if use_depthwise else 3
                hidden.append(nn.Conv2d(last, count * channels, kernel, padding=kernel // 2))
                branch.append(nn.Sequential(*hidden))

    @staticmethod
    def default_anchors() -> AnchorGenerator:
        """Anchors of SSD300 on COCO."""
        return SSDAnchorGenerator(
            scale_major=False,
            input_size=300,
            strides=(8, 16, 32, 64, 100, 300),
            ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
            basesize_ratio_range=(0.15, 0.9),
        )

    def _make_layers(self) -> None:
        """Nothing: the layers differ from level to level and follow in the constructor."""

    def _hidden(self, width: int, count: int, *, depthwise: bool, kinds: dict[str, Any]) -> list[nn.Module]:
        """Layers before one prediction of a map of ``width`` channels."""
        make = DepthwiseSeparableConvModule if depthwise else ConvModule
        layers: list[nn.Module] = []
        for _ in range(count):
            layers.append(make(width, self.feat_channels, 3, padding=1, **kinds))
            width = self.feat_channels
        if depthwise:
            layers.append(ConvModule(width, width, 3, padding=1, groups=width, **kinds))
        return layers

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives logits (B, A * (C + 1), h, w) and deltas (B, A * 4, h, w)."""
        return self.cls_convs[level](x), self.reg_convs[level](x)

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and perhaps loss_carl, scalars over the batch.

        Each is divided by the positives of the batch, at least one per image.
        """
        found = self.find_targets(map_sizes(raw[0]), targets, metas)
        logits = flatten_levels(raw[0], self.cls_out_channels).float()
        deltas = flatten_levels(raw[1], 4).flatten(0, 1).float()[found.pos_rows]
        chosen = logits.flatten(0, 1)[found.pos_rows]
        spec = self._mining()
        weights = deltas.new_full((len(deltas),), spec.pos_weight if spec.pos_weight > 0 else 1.0)
        positive = functional.cross_entropy(chosen, found.pos_labels, reduction="none")
        if spec.isr is not None:
            # objects of different images get different numbers
            objects = found.pos_rows // logits.shape[1] * max(len(t.boxes) for t in targets)
            ious = aligned_iou(self.bbox_coder.decode(found.pos_anchors, deltas.detach()), found.pos_gt_boxes)
            objects = objects + found.pos_gt_index
            weights = prime_weights(
                weights, ious, found.pos_labels, objects, positive.detach(), k=spec.isr.k, bias=spec.isr.bias
            )
        hard = self._hardest(logits, found)
        losses = {
            "loss_cls": ((positive * weights).sum() + hard) / found.num_pos,
            "loss_bbox": self._boxes(deltas, found),
        }
        if spec.carl is not None:
            losses["loss_carl"] = self._by_class_score(chosen, deltas, found, spec.carl)
        return losses

    def _mining(self) -> SSDTrainSpec:
        spec = self.training_settings()
        assert isinstance(spec, SSDTrainSpec)
        return spec

    def _hardest(self, logits: Tensor, found: AnchorTargets) -> Tensor:
        """Summed class loss of the hardest negatives of each image; (B, P, C + 1) logits."""
        background = torch.full_like(found.neg_rows, self.num_classes)
        losses = functional.cross_entropy(logits.flatten(0, 1)[found.neg_rows], background, reduction="none")
        total = losses.new_zeros(())
        for i in range(len(logits)):
            own = losses[found.neg_rows // logits.shape[1] == i]
            count = self._mining().neg_pos_ratio * int((found.pos_rows // logits.shape[1] == i).sum())
            total = total + own.topk(min(count, len(own))).values.sum()
        return total

    def _boxes(self, deltas: Tensor, found: AnchorTargets) -> Tensor:
        """Box loss of the positives' (S_pos, 4) deltas."""
        if self.reg_decoded_bbox:
            boxes, wanted = self.bbox_coder.decode(found.pos_anchors, deltas), found.pos_gt_boxes
        else:
            boxes, wanted = deltas, self.bbox_coder.encode(found.pos_anchors, found.pos_gt_boxes)
        return self.loss_bbox(boxes, wanted, avg_factor=found.num_pos)

    def _by_class_score(self, logits: Tensor, deltas: Tensor, found: AnchorTargets, spec: CarlSpec) -> Tensor:
        """Box loss of the positives, weighted by the probability of their class; (S_pos, C + 1) logits."""
        scores = logits.softmax(dim=-1).gather(1, found.pos_labels[:, None])[:, 0]
        wanted = self.bbox_coder.encode(found.pos_anchors, found.pos_gt_boxes)
        losses = functional.smooth_l1_loss(deltas, wanted, reduction="none")
        return carl_loss(scores, losses, k=spec.k, bias=spec.bias, avg_factor=found.num_pos)
