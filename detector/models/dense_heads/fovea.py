"""FoveaBox: a class and four log distances on the points in the middle of each box.

Shapes: B images, L levels, C classes, G boxes of one image, P points of one level, K chosen pairs.
Boxes: xyxy, pixels of the padded network input. Distances: left, top, right, bottom, natural log, in units
of the level's base edge.
Paper: Kong et al., IEEE TIP 2020, arXiv:1904.03797. Attribute names are the checkpoint format
(MMDetection 2.28, models/dense_heads/fovea_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.conv import ConvModule
from detector.layers.deform_conv import DeformConv2d
from detector.layers.init import InitRules, normal_
from detector.models.dense_heads.anchor_free import NORMAL_TOWERS, AnchorFreeHead
from detector.models.dense_heads.anchor_targets import flatten_levels, map_sizes
from detector.structures.boxes import area, clip
from detector.structures.samples import ImageMeta, Targets

RawOutputs = tuple[list[Tensor], list[Tensor]]
RANGES = ((8, 32), (16, 64), (32, 128), (64, 256), (128, 512))


class FeatureAlign(nn.Module):
    """A deformable convolution whose offsets follow from the predicted box."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, *, deform_groups: int = 4
    ) -> None:
        """``deform_groups`` parts of the channels have offsets of their own."""
        super().__init__()
        self.conv_offset = nn.Conv2d(4, deform_groups * kernel_size * kernel_size * 2, 1, bias=False)
        self.conv_adaption = DeformConv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=(kernel_size - 1) // 2,
            deform_groups=deform_groups,
        )

    def init_weights(self) -> None:
        """Normal weights."""
        normal_(self.conv_offset, 0.1)
        normal_(self.conv_adaption, 0.01)

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """(B, C_in, h, w) and distances (B, 4, h, w) give (B, C_out, h, w)."""
        return functional.relu(self.conv_adaption(x, self.conv_offset(shape)))


class FoveaHead(AnchorFreeHead):
    """The head; with ``with_deform`` the classes see features aligned to the predicted boxes."""

    def __init__(
        self,
        *,
        base_edge_list: Sequence[float] = (16, 32, 64, 128, 256),
        scale_ranges: Sequence[tuple[float, float]] = RANGES,
        sigma: float = 0.4,
        with_deform: bool = False,
        deform_groups: int = 4,
        init_cfg: InitRules = NORMAL_TOWERS,
        **kwargs: Any,
    ) -> None:
        """Describe the head; see ``AnchorFreeHead`` for the other arguments.

        Args:
            base_edge_list: base edge of each level in pixels.
            scale_ranges: (low, high) root of the box areas that each level is responsible for, in pixels.
            sigma: sides of the positive middle over those of the box.
            with_deform: aligned features for the classes.
            deform_groups: offset groups of the alignment.
            init_cfg: rules for the initial values.
            **kwargs: arguments of ``AnchorFreeHead``.
        """
        self.with_deform, self.deform_groups = with_deform, deform_groups
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.base_edge_list, self.scale_ranges = tuple(base_edge_list), tuple(tuple(r) for r in scale_ranges)
        self.sigma = sigma

    def _init_layers(self) -> None:
        width = self.feat_channels
        self.reg_convs = self._tower()
        self.conv_reg = nn.Conv2d(width, 4, 3, padding=1)
        if self.with_deform:
            shared: dict[str, Any] = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg}
            self.cls_convs = nn.ModuleList(
                (
                    ConvModule(width, width * 4, 3, padding=1, **shared),
                    ConvModule(width * 4, width * 4, 1, **shared),
                )
            )
            self.feature_adaption = FeatureAlign(width, width, 3, deform_groups=self.deform_groups)
            self.conv_cls = nn.Conv2d(width * 4, self.cls_out_channels, 3, padding=1)
        else:
            self.cls_convs = self._tower()
            self.conv_cls = nn.Conv2d(width, self.cls_out_channels, 3, padding=1)

    def init_weights(self) -> None:
        """Normal convolutions; the alignment keeps its own values."""
        super().init_weights()
        if self.with_deform:
            self.feature_adaption.init_weights()

    def forward(self, feats: Sequence[Tensor]) -> RawOutputs:
        """L maps (B, C_in, h, w) give L logits (B, C, h, w) and log distances (B, 4, h, w)."""
        scores, distances = [], []
        for x in feats:
            cls_feat = reg_feat = x
            for layer in self.reg_convs:
                reg_feat = layer(reg_feat)
            distances.append(self.conv_reg(reg_feat))
            if self.with_deform:
                cls_feat = self.feature_adaption(cls_feat, distances[-1].exp())
            for layer in self.cls_convs:
                cls_feat = layer(cls_feat)
            scores.append(self.conv_cls(cls_feat))
        return scores, distances

    def loss(
        self, raw: RawOutputs, targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """loss_cls per positive point and image, loss_bbox per positive point; images may be empty."""
        sizes = map_sizes(raw[0])
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1)
        distances = flatten_levels(raw[1], 4).flatten(0, 1)
        levels = self.prior_generator.grid_priors(sizes, logits.device)
        found = [
            self.level_targets(level, points, sizes[level], target)
            for target in targets
            for level, points in enumerate(levels)
        ]
        labels = torch.cat([label for label, _ in found])
        rows = torch.nonzero(labels < self.num_classes).flatten()
        wanted = torch.cat([distance for _, distance in found])[rows]
        return {
            "loss_cls": self.loss_cls(logits, labels, avg_factor=len(rows) + len(targets)),
            "loss_bbox": self.loss_bbox(
                distances[rows], wanted, torch.ones_like(wanted), avg_factor=max(len(rows), 1)
            ),
        }

    def level_targets(
        self, level: int, points: Tensor, hw: tuple[int, int], target: Targets
    ) -> tuple[Tensor, Tensor]:
        """What the points of one level of one image should predict.

        Args:
            level: number of the level.
            points: (P, 2).
            hw: rows and columns of the level.
            target: ground truth; where boxes compete the smallest wins.

        Returns:
            (P,) int64 labels, C for background, and (P, 4) log distances.
        """
        side = area(target.boxes).sqrt()
        low, high = self.scale_ranges[level]
        usable = torch.nonzero((side >= low) & (side <= high)).flatten()
        labels = points.new_full((len(points),), self.num_classes, dtype=torch.long)
        if len(usable) == 0:
            return labels, points.new_zeros(len(points), 4)
        usable = usable[side[usable].argsort(descending=True)]  # the last of several wins
        boxes = target.boxes[usable]
        cell = torch.floor(points / self.strides[level]).long()  # (P, 2) column, row
        first, last = self._middle(boxes / self.strides[level], hw)
        inside = ((cell[:, None] >= first[None]) & (cell[:, None] <= last[None])).all(dim=2)
        winner = torch.where(inside, torch.arange(len(boxes), device=boxes.device)[None], -1).amax(dim=1)
        labels = torch.where(winner >= 0, target.labels[usable][winner.clamp(min=0)], labels)
        own = boxes[winner.clamp(min=0)]
        distances = torch.cat((points - own[:, :2], own[:, 2:] - points), dim=1) / self.base_edge_list[level]
        return labels, distances.clamp(min=1 / 16, max=16).log()

    def _middle(self, boxes: Tensor, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """First and last (G, 2) column and row of the positive cells of boxes (G, 4) in cells."""
        half = 0.5 * (boxes[:, 2:] - boxes[:, :2])
        limit = torch.tensor((hw[1] - 1, hw[0] - 1), device=boxes.device)
        first = torch.ceil(boxes[:, :2] + (1 - self.sigma) * half - 0.5).long()
        last = torch.floor(boxes[:, :2] + (1 + self.sigma) * half - 0.5).long()
        return torch.minimum(first.clamp(min=0), limit), torch.minimum(last.clamp(min=0), limit)

    def decode_chosen(self, level: int, points: Tensor, values: Tensor, hw: tuple[int, int]) -> Tensor:
        """Boxes (K, 4), clipped to the last pixel of ``hw``, of K points and their log distances."""
        reach = values.exp() * self.base_edge_list[level]
        boxes = torch.cat((points - reach[:, :2], points + reach[:, 2:]), dim=1)
        return clip(boxes, (hw[0] - 1, hw[1] - 1))
