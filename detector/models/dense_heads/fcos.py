"""FCOS: a class, four distances and a centerness on every point.

Shapes: B images, L levels, C classes, P points of all levels, G boxes of one image, S positive points.
Boxes: xyxy, pixels of the padded network input, no +1. Distances: left, top, right, bottom.
Paper: Tian et al., ICCV 2019, arXiv:1904.01355. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/fcos_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detector.layers.init import InitRules
from detector.layers.scale import Scale
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.losses.process_mean import process_mean
from detector.models.dense_heads.anchor_free import NORMAL_TOWERS, AnchorFreeHead
from detector.models.dense_heads.anchor_targets import flatten_levels, map_sizes
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import NormSpec
from detector.targets.assigners.regress_range import INF, assign_by_range, labels_of, level_values

RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, INF))
GN_32 = NormSpec(type="GN", num_groups=32)
RawOutputs = tuple[list[Tensor], list[Tensor], list[Tensor]]


def centerness_of(distances: Tensor) -> Tensor:
    """How central a point lies in its box, in [0, 1]: (S, 4) distances give (S,)."""
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = horizontal.amin(dim=1) / horizontal.amax(dim=1) * vertical.amin(dim=1) / vertical.amax(dim=1)
    return ratio.sqrt()


class FCOSHead(AnchorFreeHead):
    """The head; ``scales`` holds one learned factor per level for the distances."""

    def __init__(
        self,
        *,
        regress_ranges: Sequence[tuple[float, float]] = RANGES,
        center_sampling: bool = False,
        center_sample_radius: float = 1.5,
        norm_on_bbox: bool = False,
        centerness_on_reg: bool = False,
        loss_centerness: nn.Module | None = None,
        norm_cfg: NormSpec | None = GN_32,
        init_cfg: InitRules = NORMAL_TOWERS,
        **kwargs: Any,
    ) -> None:
        """Describe the head; see ``AnchorFreeHead`` for the other arguments.

        Args:
            regress_ranges: (low, high) largest distance in pixels that each level is responsible for.
            center_sampling: only points near the centre of a box stand for it.
            center_sample_radius: how near, in strides.
            norm_on_bbox: distances are learned in strides.
            centerness_on_reg: centerness comes from the tower of the boxes.
            loss_centerness: default binary cross entropy.
            norm_cfg: norm of the towers.
            init_cfg: rules for the initial values.
            **kwargs: arguments of ``AnchorFreeHead``.
        """
        self.norm_on_bbox, self.centerness_on_reg = norm_on_bbox, centerness_on_reg
        super().__init__(norm_cfg=norm_cfg, init_cfg=init_cfg, **kwargs)
        self.regress_ranges = tuple(tuple(r) for r in regress_ranges)
        self.center_sampling, self.center_sample_radius = center_sampling, center_sample_radius
        self.loss_centerness = loss_centerness or CrossEntropyLoss(use_sigmoid=True)

    def _init_layers(self) -> None:
        super()._init_layers()
        self.conv_centerness = nn.Conv2d(self.feat_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.strides)

    def forward(self, feats: Sequence[Tensor]) -> RawOutputs:
        """L maps (B, C_in, h, w) give L logits (B, C, h, w), distances (B, 4, h, w), centerness (B, 1, h, w).

        Distances are in pixels in eval mode, and in strides in training with ``norm_on_bbox``.
        """
        scores, distances, centerness = [], [], []
        for x, scale, stride in zip(feats, self.scales, self.strides, strict=True):
            cls_feat, reg_feat = self.towers(x)
            scores.append(self.conv_cls(cls_feat))
            reach = scale(self.conv_reg(reg_feat)).float()
            if self.norm_on_bbox:
                reach = reach.clamp(min=0)
                reach = reach if self.training else reach * stride
            else:
                reach = reach.exp()
            distances.append(reach)
            centerness.append(self.conv_centerness(reg_feat if self.centerness_on_reg else cls_feat))
        return scores, distances, centerness

    def loss(
        self, raw: RawOutputs, targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_centerness, scalars; images without objects are fine."""
        scores = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1).float()
        distances = flatten_levels(raw[1], 4).flatten(0, 1)
        centerness = flatten_levels(raw[2], 1).flatten().float()
        levels = self.prior_generator.grid_priors(map_sizes(raw[0]), scores.device)
        points = torch.cat(levels)
        counts = [len(p) for p in levels]
        found = [self.point_targets(points, counts, t) for t in targets]
        labels = torch.cat([label for label, _ in found])
        wanted = torch.cat([distance for _, distance in found])
        rows = torch.nonzero(labels < self.num_classes).flatten()
        num_pos = process_mean(len(rows), like=scores)
        points = points.repeat(len(targets), 1)[rows]
        wanted = wanted[rows]
        central = centerness_of(wanted)
        return {
            "loss_cls": self.loss_cls(scores, labels, avg_factor=num_pos),
            "loss_bbox": self.loss_bbox(
                self.bbox_coder.decode(points, distances[rows]),
                self.bbox_coder.decode(points, wanted),
                central,
                avg_factor=process_mean(central.sum(), like=central, least=1e-6),
            ),
            "loss_centerness": self.loss_centerness(centerness[rows], central, avg_factor=num_pos),
        }

    def point_targets(self, points: Tensor, counts: Sequence[int], target: Targets) -> tuple[Tensor, Tensor]:
        """What every point of one image should predict.

        Args:
            points: (P, 2).
            counts: points of each level.
            target: ground truth.

        Returns:
            (P,) int64 labels, C for background, and (P, 4) distances in the unit the head learns.
        """
        radius = self.center_sample_radius if self.center_sampling else None
        index, distances = assign_by_range(
            points, counts, target.boxes, strides=self.strides, ranges=self.regress_ranges, radius=radius
        )
        labels = labels_of(index, target.labels, self.num_classes)
        if self.norm_on_bbox:
            distances = distances / level_values(counts, self.strides, points)[:, None]
        return labels, distances
