"""ATSS: anchors chosen adaptively, with the centredness of every box.

Shapes: B images, L levels, A anchors per cell, S positive anchors of the batch.
Boxes: xyxy, pixels of the padded network input.
Paper: Zhang et al., CVPR 2020, arXiv:1912.02424. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/atss_head.py).
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
from detector.models.dense_heads.anchor_head import AnchorHead
from detector.models.dense_heads.anchor_targets import flatten_levels, map_sizes
from detector.models.dense_heads.retina import add_towers, rare_class, through
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import ConvSpec, NormSpec

GROUP_NORM = NormSpec(type="GN", num_groups=32)
RARE_CLASS = rare_class("atss_cls")


def anchor_centres(anchors: Tensor) -> Tensor:
    """Centres (N, 2), x and y, of (N, 4) anchors."""
    return (anchors[:, :2] + anchors[:, 2:]) / 2


def centredness(points: Tensor, boxes: Tensor) -> Tensor:
    """How central (N, 2) points lie in (N, 4) boxes: (N,), 1 at the centre, 0 at the border and outside."""
    near, far = points - boxes[:, :2], boxes[:, 2:] - points
    ratio = torch.minimum(near, far) / torch.maximum(near, far)
    return ratio.clamp(min=0).prod(dim=1).sqrt()


class ATSSHead(AnchorHead):
    """Towers with group norm; class, box and centredness of every anchor."""

    cls_convs: nn.ModuleList
    reg_convs: nn.ModuleList
    atss_cls: nn.Conv2d
    atss_reg: nn.Conv2d
    atss_centerness: nn.Conv2d

    def __init__(
        self,
        *,
        pred_kernel_size: int = 3,
        stacked_convs: int = 4,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = GROUP_NORM,
        reg_decoded_bbox: bool = True,
        loss_centerness: nn.Module | None = None,
        init_cfg: InitRules = RARE_CLASS,
        **kwargs: Any,
    ) -> None:
        """Describe the head; the rest as in ``AnchorHead``.

        Args:
            pred_kernel_size: kernel of the last layers.
            stacked_convs: blocks per tower.
            conv_cfg: convolution of the towers.
            norm_cfg: norm of the towers.
            reg_decoded_bbox: accepted for the dialect; the box loss always compares boxes.
            loss_centerness: loss of the centredness.
            init_cfg: rules for the initial values.
            kwargs: the other arguments of ``AnchorHead``.
        """
        self.pred_kernel_size, self.stacked_convs = pred_kernel_size, stacked_convs
        self.conv_cfg, self.norm_cfg = conv_cfg, norm_cfg
        super().__init__(reg_decoded_bbox=reg_decoded_bbox, init_cfg=init_cfg, **kwargs)
        self.loss_centerness = (
            CrossEntropyLoss(use_sigmoid=True) if loss_centerness is None else loss_centerness
        )

    def _make_layers(self) -> None:
        add_towers(self, self.stacked_convs, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        size, anchors = self.pred_kernel_size, self.num_base_priors
        for name, channels in (("cls", self.cls_out_channels), ("reg", 4), ("centerness", 1)):
            layer = nn.Conv2d(self.feat_channels, anchors * channels, size, padding=size // 2)
            self.add_module(f"atss_{name}", layer)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.prior_generator.strides)

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """(B, C_in, h, w) gives logits (B, A * C, h, w), deltas (B, A * 4, h, w), centredness (B, A, ...)."""
        reg_feat = through(self.reg_convs, x)
        return (
            self.atss_cls(through(self.cls_convs, x)),
            self.scales[level](self.atss_reg(reg_feat)).float(),
            self.atss_centerness(reg_feat),
        )

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_centerness, scalars summed over levels.

        Classes and centredness are divided by the number of positives, boxes by the sum of their centredness.
        """
        found = self.find_targets(map_sizes(raw[0]), targets, metas)
        count = process_mean(found.num_pos, like=raw[0][0])
        deltas = flatten_levels(raw[1], 4).flatten(0, 1)[found.pos_rows]
        central = flatten_levels(raw[2], 1).flatten()[found.pos_rows]
        wanted = centredness(anchor_centres(found.pos_anchors), found.pos_gt_boxes)
        boxes = self.bbox_coder.decode(found.pos_anchors, deltas)
        box_loss = self.loss_bbox(boxes, found.pos_gt_boxes, wanted, avg_factor=1.0)
        return {
            "loss_cls": self.class_loss(raw[0], found, count),
            "loss_bbox": box_loss / process_mean(wanted.sum(), like=wanted),
            "loss_centerness": self.loss_centerness(central, wanted, avg_factor=count),
        }
