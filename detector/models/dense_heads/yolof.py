"""YOLOF: anchors on a single map, scores corrected by an objectness without a loss of its own.

Shapes: B images, A anchors per cell, C classes, P anchors (h * w * A), M pairs of an anchor and a box.
Boxes: xyxy, pixels of the padded network input.
Paper: Chen et al., CVPR 2021, arXiv:2103.09460. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/yolof_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.layers.conv import ConvModule
from detector.layers.init import fill, normal_
from detector.losses.process_mean import process_mean
from detector.models.dense_heads.anchor_head import AnchorHead, AnchorTrainSpec
from detector.models.dense_heads.anchor_targets import anchor_targets, flatten_levels, map_sizes
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import InitSpec, NormSpec
from detector.targets.assigners.assignment import Assignment
from detector.targets.assigners.uniform import UniformAssigner
from detector.targets.samplers.pseudo import PseudoSampler

BATCH_NORM = NormSpec(type="BN")
LARGEST = 1e8


@dataclass(frozen=True)
class YOLOFTrainSpec(AnchorTrainSpec):
    """How anchors become targets: ``assigner`` looks at the predictions."""

    assigner: Any


class YOLOFHead(AnchorHead):
    """Two towers on one map."""

    cls_subnet: nn.Sequential
    bbox_subnet: nn.Sequential

    def __init__(
        self,
        *,
        num_cls_convs: int = 2,
        num_reg_convs: int = 4,
        norm_cfg: NormSpec | None = BATCH_NORM,
        train_cfg: YOLOFTrainSpec | None = None,
        **kwargs: Any,
    ) -> None:
        """Describe the head; the rest as in ``AnchorHead``.

        Args:
            num_cls_convs: convolutions of the class tower.
            num_reg_convs: convolutions of the box tower.
            norm_cfg: their norm.
            train_cfg: assigner; None builds a head for testing only.
            **kwargs: arguments of ``AnchorHead``.
        """
        self.num_cls_convs, self.num_reg_convs, self.norm_cfg = num_cls_convs, num_reg_convs, norm_cfg
        super().__init__(train_cfg=train_cfg, **kwargs)

    def _make_layers(self) -> None:
        width, anchors = self.in_channels, self.num_base_priors
        for name, count in (("cls_subnet", self.num_cls_convs), ("bbox_subnet", self.num_reg_convs)):
            convs = [ConvModule(width, width, 3, padding=1, norm_cfg=self.norm_cfg) for _ in range(count)]
            self.add_module(name, nn.Sequential(*convs))
        self.cls_score = nn.Conv2d(width, anchors * self.num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(width, anchors * 4, 3, padding=1)
        self.object_pred = nn.Conv2d(width, anchors, 3, padding=1)

    def init_weights(self) -> None:
        """Normal convolutions, norms at one, scores at 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                normal_(module, 0.01)
            elif isinstance(module, (_BatchNorm, nn.GroupNorm)):
                fill(module, InitSpec(type="Constant", val=1))
        fill(self.cls_score, InitSpec(type="Normal", std=0.01, bias_prob=0.01))

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives joint logits (B, A * C, h, w) and deltas (B, A * 4, h, w)."""
        reg_feat = self.bbox_subnet(x)
        logits = self.cls_score(self.cls_subnet(x)).unflatten(1, (-1, self.num_classes))
        objectness = self.object_pred(reg_feat)[:, :, None]
        # the logit of sigmoid(class) * sigmoid(objectness)
        either = logits.exp().clamp(max=LARGEST) + objectness.exp().clamp(max=LARGEST)
        joint = logits + objectness - torch.log(1.0 + either)
        return joint.flatten(1, 2), self.bbox_pred(reg_feat)

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls and loss_bbox per positive anchor, scalars; images without objects are fine."""
        spec, sizes = self.training_settings(), map_sizes(raw[0])
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1)
        deltas = flatten_levels(raw[1], 4)
        predicted, wanted, good = [deltas.new_zeros(0, 4)], [deltas.new_zeros(0, 4)], [deltas.new_zeros(0)]

        def assign(image: int, anchors: Tensor, rows: Tensor | None) -> Assignment:
            assert isinstance(spec.assigner, UniformAssigner), "YOLOFHead assigns uniformly"
            own, boxes = deltas[image] if rows is None else deltas[image, rows], targets[image].boxes
            decoded = self.bbox_coder.decode(anchors, own)
            match = spec.assigner.assign_predicted(decoded.detach(), anchors, boxes)
            predicted.append(decoded[match.pair_rows])
            wanted.append(boxes[match.pair_gt])
            good.append(match.pair_good.to(deltas))
            return match

        found = anchor_targets(
            self.prior_generator,
            sizes,
            targets,
            metas,
            assigner=spec.assigner,
            sampler=PseudoSampler(),
            allowed_border=spec.allowed_border,
            with_labels=True,
            assign=assign,
        )
        count = process_mean(found.num_pos, like=logits)
        labels = found.labels(len(logits), self.num_classes)
        weights = found.weights(len(logits), spec.pos_weight)
        boxes, own_weights = torch.cat(predicted), torch.cat(good)
        box_loss = self.loss_bbox(boxes, torch.cat(wanted), own_weights, avg_factor=count)
        return {
            "loss_cls": self.loss_cls(logits, labels, weights, avg_factor=count),
            "loss_bbox": box_loss if len(boxes) else deltas.sum() * 0,
        }
