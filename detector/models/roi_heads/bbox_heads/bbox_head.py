"""Class and box of each region: the plain head and what all box heads share.

Shapes: K regions of the batch, C classes, S_pos positive regions, P bins per side.
Boxes: xyxy, pixels of the padded network input; regions (K, 5) carry the image index first.
Source: checked against mmdet 2.28.2 models/roi_heads/bbox_heads/bbox_head.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.layers.init import InitRules, apply_rules, normal_
from detector.layers.normed import make_linear
from detector.losses.class_scores import ClassScores
from detector.losses.cross_entropy import CrossEntropyLoss, accuracy
from detector.losses.smooth_l1 import SmoothL1Loss
from detector.ops.roi_align import rows_per_image
from detector.structures.boxes import clip
from detector.structures.specs import PredictorSpec
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder
from detector.targets.samplers.sampling import Sampled

LINEAR = PredictorSpec(type="Linear")


@dataclass(frozen=True)
class BoxTargets:
    """What the regions of a batch should predict, positives of an image before its negatives.

    Attributes:
        labels: (K,) int64, C is background.
        label_weights: (K,).
        pos_rows: (S_pos,) int64 rows of positive regions.
        pos_boxes: (S_pos, 4) their boxes.
        pos_gt_boxes: (S_pos, 4) the ground truth they stand for.
        box_weights: (S_pos,) of the box loss, or None for ones.
    """

    labels: Tensor
    label_weights: Tensor
    pos_rows: Tensor
    pos_boxes: Tensor
    pos_gt_boxes: Tensor
    box_weights: Tensor | None = None


def box_targets(samples: Sequence[Sampled], num_classes: int, pos_weight: float) -> BoxTargets:
    """Targets of the sampled regions of all images; ``pos_weight`` not above 0 means 1."""
    labels, weights, rows, start = [], [], [], 0
    for s in samples:
        assert s.pos_gt_labels is not None
        labels += [s.pos_gt_labels, torch.full_like(s.neg_index, num_classes)]
        weights += [s.pos_boxes.new_full((len(s.pos_index),), pos_weight if pos_weight > 0 else 1.0)]
        ones = s.pos_boxes.new_ones(len(s.neg_index))
        weights += [ones if s.neg_label_weights is None else s.neg_label_weights]
        rows.append(torch.arange(start, start + len(s.pos_index), device=s.pos_index.device))
        start += len(s.pos_index) + len(s.neg_index)
    return BoxTargets(
        labels=torch.cat(labels),
        label_weights=torch.cat(weights),
        pos_rows=torch.cat(rows),
        pos_boxes=torch.cat([s.pos_boxes for s in samples]),
        pos_gt_boxes=torch.cat([s.pos_gt_boxes for s in samples]),
    )


class BBoxHead(nn.Module):
    """One linear layer each for classes and boxes.

    Attribute names are the checkpoint format (MMDetection 2.28).
    """

    def __init__(
        self,
        *,
        num_classes: int = 80,
        bbox_coder: DeltaXYWHBBoxCoder | None = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        in_channels: int = 256,
        roi_feat_size: int = 7,
        with_avg_pool: bool = False,
        with_cls: bool = True,
        with_reg: bool = True,
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        reg_predictor_cfg: PredictorSpec = LINEAR,
        cls_predictor_cfg: PredictorSpec = LINEAR,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: classes without background.
            bbox_coder: between regions and boxes; None is deltas with the usual standard deviations.
            loss_cls: classification loss on C + 1 logits; None is cross entropy.
            loss_bbox: box loss; None is smooth L1.
            in_channels: channels of the region features.
            roi_feat_size: bins per side.
            with_avg_pool: average the bins first.
            with_cls: build the class layer.
            with_reg: build the box layer.
            reg_class_agnostic: one box per region instead of one per class.
            reg_decoded_bbox: the box loss compares boxes instead of deltas.
            reg_predictor_cfg: kind of the box layer.
            cls_predictor_cfg: kind of the class layer.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.num_classes = num_classes
        self.bbox_coder = bbox_coder or DeltaXYWHBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2))
        self.loss_cls = CrossEntropyLoss() if loss_cls is None else loss_cls
        self.loss_bbox = SmoothL1Loss() if loss_bbox is None else loss_bbox
        self.in_channels, self.roi_feat_area = in_channels, roi_feat_size**2
        self.with_avg_pool, self.with_cls, self.with_reg = with_avg_pool, with_cls, with_reg
        self.reg_class_agnostic, self.reg_decoded_bbox = reg_class_agnostic, reg_decoded_bbox
        self.reg_predictor_cfg, self.cls_predictor_cfg, self.init_cfg = (
            reg_predictor_cfg,
            cls_predictor_cfg,
            init_cfg,
        )
        if with_avg_pool:
            self.avg_pool = nn.AvgPool2d(roi_feat_size)
        width = in_channels if with_avg_pool else in_channels * self.roi_feat_area
        self._make_predictors(width, width)

    def _make_predictors(self, cls_width: int, reg_width: int) -> None:
        if self.with_cls:
            channels = self.num_classes + 1
            if isinstance(self.loss_cls, ClassScores):
                channels = self.loss_cls.channels(self.num_classes)
            self.fc_cls = make_linear(self.cls_predictor_cfg, cls_width, channels, where="cls_predictor_cfg")
        if self.with_reg:
            channels = 4 if self.reg_class_agnostic else 4 * self.num_classes
            self.fc_reg = make_linear(self.reg_predictor_cfg, reg_width, channels, where="reg_predictor_cfg")

    def init_weights(self) -> None:
        """Normal class (std 0.01) and box (std 0.001) layers unless ``init_cfg`` says otherwise."""
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
            return
        if self.with_cls:
            normal_(self.fc_cls, 0.01)
        if self.with_reg:
            normal_(self.fc_reg, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(K, in_channels, P, P) gives logits (K, C + 1), background last, and deltas (K, 4 * C or 4).

        The deltas are None for a head without a box layer.
        """
        x = (self.avg_pool(x) if self.with_avg_pool else x).flatten(1)
        return self.fc_cls(x), self.fc_reg(x) if self.with_reg else None

    def loss(self, cls_score: Tensor, bbox_pred: Tensor | None, targets: BoxTargets) -> dict[str, Tensor]:
        """Scalars loss_cls, loss_bbox and acc (percent); means over all K regions.

        Args:
            cls_score: (K, C + 1) logits.
            bbox_pred: (K, 4 * C or 4) deltas; None leaves the box loss out.
            targets: of the same K regions.
        """
        losses = self.class_loss(cls_score, targets)
        if bbox_pred is not None:
            losses["loss_bbox"] = self.box_loss(bbox_pred, targets)
        return losses

    def class_loss(self, cls_score: Tensor, targets: BoxTargets) -> dict[str, Tensor]:
        """loss_cls and acc (percent) of logits (K, C + 1), or what a loss with its own scores calls them."""
        count = max(float((targets.label_weights > 0).sum()), 1.0)
        found = self.loss_cls(cls_score, targets.labels, targets.label_weights, avg_factor=count)
        losses = dict(found) if isinstance(found, dict) else {"loss_cls": found}
        if isinstance(self.loss_cls, ClassScores):
            return losses | self.loss_cls.accuracies(cls_score, targets.labels)
        return losses | {"acc": accuracy(cls_score, targets.labels)}

    def probabilities(self, cls_score: Tensor) -> Tensor:
        """(K, C + 1) probabilities, background last, of the logits of K regions."""
        if isinstance(self.loss_cls, ClassScores):
            return self.loss_cls.activate(cls_score.float())
        return cls_score.float().softmax(dim=-1)

    def box_loss(self, bbox_pred: Tensor, targets: BoxTargets) -> Tensor:
        """Loss of the deltas (K, 4 * C or 4) of positive regions, divided by K."""
        chosen = self.own_deltas(bbox_pred, targets)
        if len(chosen) == 0:
            return bbox_pred[targets.pos_rows].sum()
        if self.reg_decoded_bbox:
            chosen, wanted = self.bbox_coder.decode(targets.pos_boxes, chosen), targets.pos_gt_boxes
        else:
            wanted = self.bbox_coder.encode(targets.pos_boxes, targets.pos_gt_boxes)
        weights = torch.ones_like(wanted)
        if targets.box_weights is not None:
            weights = targets.box_weights[:, None] * weights
        return self.loss_bbox(chosen, wanted, weights, avg_factor=len(targets.labels))

    def own_deltas(self, bbox_pred: Tensor, targets: BoxTargets) -> Tensor:
        """(S_pos, 4) deltas of each positive region's own class, of (K, 4 * C or 4)."""
        chosen = bbox_pred[targets.pos_rows]
        if self.reg_class_agnostic:
            return chosen
        rows = torch.arange(len(chosen), device=chosen.device)
        return chosen.reshape(len(chosen), self.num_classes, 4)[rows, targets.labels[targets.pos_rows]]

    @torch.no_grad()
    def class_losses(self, cls_score: Tensor, labels: Tensor) -> Tensor:
        """Unreduced classification loss (K,) of logits (K, C + 1), for samplers that mine hard examples."""
        unreduced = copy(self.loss_cls)
        unreduced.reduction = "none"  # type: ignore[assignment]
        losses = unreduced(cls_score, labels)
        return losses if losses.dim() == 1 else losses.flatten(1).sum(dim=1)

    def decode(
        self, rois: Tensor, cls_score: Tensor, bbox_pred: Tensor | None, input_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Boxes (K, 4 * C or 4) clipped to ``input_hw`` and probabilities (K, C + 1) for one image.

        Without deltas the boxes are the regions.
        """
        if bbox_pred is None:
            boxes = clip(rois[:, 1:], input_hw)
        else:
            boxes = self.bbox_coder.decode(rois[:, 1:], bbox_pred.float(), max_hw=input_hw)
        return boxes, self.probabilities(cls_score)

    def likely_class(self, cls_score: Tensor) -> Tensor:
        """The class (n,) in [0, C) of the largest logit (n, C + 1), background aside."""
        own = isinstance(self.loss_cls, ClassScores)
        return (self.probabilities(cls_score) if own else cls_score)[:, :-1].argmax(dim=1)

    def split_predictions(self, bbox_pred: Tensor, counts: Sequence[int]) -> Sequence[Tensor]:
        """Deltas of each image, from those of all K regions."""
        return rows_per_image(bbox_pred, list(counts))

    def regress_by_class(
        self, boxes: Tensor, labels: Tensor, bbox_pred: Tensor, input_hw: tuple[int, int]
    ) -> Tensor:
        """Boxes (n, 4) moved by the deltas of their labels (n,) in [0, C), for one image.

        ``bbox_pred`` is (n, 4 * C or 4); clipped to ``input_hw``. Cascades refine their proposals so.
        """
        if not self.reg_class_agnostic:
            own = labels[:, None, None].expand(-1, 1, 4)
            bbox_pred = bbox_pred.reshape(-1, self.num_classes, 4).gather(1, own)[:, 0]
        return self.bbox_coder.decode(boxes, bbox_pred.float(), max_hw=input_hw)
