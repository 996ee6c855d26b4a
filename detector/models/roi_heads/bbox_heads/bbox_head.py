"""Class and box of each region: the plain head and what all box heads share.

Shapes: K regions of the batch, C classes, S_pos positive regions, P bins per side.
Boxes: xyxy, pixels of the padded network input; regions (K, 5) carry the image index first.
Source: checked against mmdet 2.28.2 models/roi_heads/bbox_heads/bbox_head.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.layers.init import InitRules, apply_rules, normal_
from detector.losses.cross_entropy import accuracy
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
    """

    labels: Tensor
    label_weights: Tensor
    pos_rows: Tensor
    pos_boxes: Tensor
    pos_gt_boxes: Tensor


def box_targets(samples: Sequence[Sampled], num_classes: int, pos_weight: float) -> BoxTargets:
    """Targets of the sampled regions of all images; ``pos_weight`` not above 0 means 1."""
    labels, weights, rows, start = [], [], [], 0
    for s in samples:
        assert s.pos_gt_labels is not None
        labels += [s.pos_gt_labels, torch.full_like(s.neg_index, num_classes)]
        weights += [s.pos_boxes.new_full((len(s.pos_index),), pos_weight if pos_weight > 0 else 1.0)]
        weights += [s.pos_boxes.new_ones(len(s.neg_index))]
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
        num_classes: int,
        bbox_coder: DeltaXYWHBBoxCoder,
        loss_cls: nn.Module,
        loss_bbox: nn.Module,
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
            bbox_coder: between regions and boxes.
            loss_cls: classification loss on C + 1 logits.
            loss_bbox: box loss.
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
        reg_predictor_cfg.require("Linear", "reg_predictor_cfg")
        cls_predictor_cfg.require("Linear", "cls_predictor_cfg")
        self.num_classes, self.bbox_coder = num_classes, bbox_coder
        self.loss_cls, self.loss_bbox = loss_cls, loss_bbox
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
            self.fc_cls = nn.Linear(cls_width, self.num_classes + 1)
        if self.with_reg:
            self.fc_reg = nn.Linear(reg_width, 4 if self.reg_class_agnostic else 4 * self.num_classes)

    def init_weights(self) -> None:
        """Normal class (std 0.01) and box (std 0.001) layers unless ``init_cfg`` says otherwise."""
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
            return
        if self.with_cls:
            normal_(self.fc_cls, 0.01)
        if self.with_reg:
            normal_(self.fc_reg, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(K, in_channels, P, P) gives logits (K, C + 1), background last, and deltas (K, 4 * C or 4)."""
        x = (self.avg_pool(x) if self.with_avg_pool else x).flatten(1)
        return self.fc_cls(x), self.fc_reg(x)

    def loss(self, cls_score: Tensor, bbox_pred: Tensor, targets: BoxTargets) -> dict[str, Tensor]:
        """Scalars loss_cls, loss_bbox and acc (percent); means over all K regions.

        Args:
            cls_score: (K, C + 1) logits.
            bbox_pred: (K, 4 * C or 4) deltas.
            targets: of the same K regions.
        """
        count = max(float((targets.label_weights > 0).sum()), 1.0)
        losses = {
            "loss_cls": self.loss_cls(cls_score, targets.labels, targets.label_weights, avg_factor=count),
            "acc": accuracy(cls_score, targets.labels),
        }
        chosen = bbox_pred[targets.pos_rows]
        if not self.reg_class_agnostic:
            rows = torch.arange(len(chosen), device=chosen.device)
            chosen = chosen.reshape(len(chosen), self.num_classes, 4)[rows, targets.labels[targets.pos_rows]]
        if self.reg_decoded_bbox:
            chosen, wanted = self.bbox_coder.decode(targets.pos_boxes, chosen), targets.pos_gt_boxes
        else:
            wanted = self.bbox_coder.encode(targets.pos_boxes, targets.pos_gt_boxes)
        if len(chosen) == 0:
            losses["loss_bbox"] = bbox_pred[targets.pos_rows].sum()
        else:
            weights = torch.ones_like(wanted)
            losses["loss_bbox"] = self.loss_bbox(chosen, wanted, weights, avg_factor=len(targets.labels))
        return losses

    def decode(
        self, rois: Tensor, cls_score: Tensor, bbox_pred: Tensor, input_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Boxes (K, 4 * C or 4) clipped to ``input_hw`` and probabilities (K, C + 1) for one image."""
        boxes = self.bbox_coder.decode(rois[:, 1:], bbox_pred.float(), max_hw=input_hw)
        return boxes, cls_score.float().softmax(dim=-1)
