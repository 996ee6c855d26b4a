"""The two heads of guided anchoring: proposals, and RetinaNet's towers.

Shapes: B images, L levels, one anchor per cell, K proposals of one image.
Boxes: xyxy, pixels of the padded network input.
Paper: Wang et al., CVPR 2019, arXiv:1901.03278. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/ga_rpn_head.py and ga_retina_head.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.init import InitRules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.models.dense_heads.guided_anchor import (
    RARE_CENTRE,
    FeatureAdaption,
    GuidedAnchorHead,
    GuidedTrainSpec,
)
from detector.models.dense_heads.retina import add_towers, through
from detector.models.dense_heads.rpn import ProposalSpec, best_proposals, merged_views
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import ConvSpec, InitSpec, NormSpec
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder
from detector.targets.priors.anchors import AnchorGenerator

_RARE = [
    {"type": "Normal", "name": name, "std": 0.01, "bias_prob": 0.01} for name in ("conv_loc", "retina_cls")
]
RETINA_RULES = InitSpec(type="Normal", layer="Conv2d", std=0.01, override=_RARE)


class GARPNHead(GuidedAnchorHead):
    """Proposals on guided anchors."""

    def __init__(
        self,
        *,
        in_channels: int,
        feat_channels: int = 256,
        approx_anchor_generator: AnchorGenerator | None = None,
        square_anchor_generator: AnchorGenerator | None = None,
        anchor_coder: DeltaXYWHBBoxCoder | None = None,
        bbox_coder: DeltaXYWHBBoxCoder | None = None,
        reg_decoded_bbox: bool = False,
        deform_groups: int = 4,
        loc_filter_thr: float = 0.01,
        train_cfg: GuidedTrainSpec | None = None,
        test_cfg: ProposalSpec | None = None,
        proposal_cfg: ProposalSpec | None = None,
        loss_loc: nn.Module | None = None,
        loss_shape: nn.Module | None = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        init_cfg: InitRules = RARE_CENTRE,
    ) -> None:
        """Arguments as in ``GuidedAnchorHead``.

        ``test_cfg`` makes proposals in testing, ``proposal_cfg`` in training (default as in testing).
        """
        super().__init__(
            num_classes=1,
            in_channels=in_channels,
            feat_channels=feat_channels,
            approx_anchor_generator=approx_anchor_generator,
            square_anchor_generator=square_anchor_generator,
            anchor_coder=anchor_coder,
            bbox_coder=bbox_coder,
            reg_decoded_bbox=reg_decoded_bbox,
            deform_groups=deform_groups,
            loc_filter_thr=loc_filter_thr,
            train_cfg=train_cfg,
            loss_loc=loss_loc,
            loss_shape=loss_shape,
            loss_cls=CrossEntropyLoss(use_sigmoid=True) if loss_cls is None else loss_cls,
            loss_bbox=loss_bbox,
            init_cfg=init_cfg,
        )
        self.proposal_test = test_cfg or ProposalSpec()
        self.proposal_cfg = proposal_cfg or self.proposal_test

    def _make_layers(self) -> None:
        self.rpn_conv = nn.Conv2d(self.in_channels, self.feat_channels, 3, padding=1)
        super()._make_layers()

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """As in ``GuidedAnchorHead``, after a hidden convolution."""
        return super().forward_level(functional.relu(self.rpn_conv(x)), level)

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_rpn_cls, loss_rpn_bbox, loss_anchor_shape and loss_anchor_loc, scalars summed over levels."""
        losses = self.guided_losses(raw, targets, metas, with_labels=False)
        return {
            "loss_rpn_cls": losses["loss_cls"],
            "loss_rpn_bbox": losses["loss_bbox"],
            "loss_anchor_shape": losses["loss_shape"],
            "loss_anchor_loc": losses["loss_loc"],
        }

    @torch.no_grad()
    def propose(self, raw: Any, metas: Sequence[ImageMeta], spec: ProposalSpec | None = None) -> list[Tensor]:
        """Proposals of every image, (K, 5) xyxy and score, best first; ``spec`` None: the test settings."""
        spec = spec or self.proposal_test
        anchors, results = self.guided_anchors(raw[2]), []
        for b, meta in enumerate(metas):
            parts = self.level_scores(raw, b, anchors, spec.nms_pre, meta)
            levels = torch.cat([torch.full_like(s[:, 0], i).long() for i, (_, s) in enumerate(parts)])
            boxes, scores = torch.cat([box for box, _ in parts]), torch.cat([s[:, 0] for _, s in parts])
            results.append(best_proposals(boxes, scores, levels, spec))
        return results

    def propose_views(self, raws: Iterable[Any], metas: Sequence[ImageMeta]) -> Tensor:
        """As in ``RPNHead``."""
        found = [self.propose(raw, [meta])[0] for raw, meta in zip(raws, metas, strict=True)]
        return merged_views(found, metas, self.proposal_test)


class GARetinaHead(GuidedAnchorHead):
    """RetinaNet's towers on guided anchors."""

    cls_convs: nn.ModuleList
    reg_convs: nn.ModuleList

    def __init__(
        self,
        *,
        stacked_convs: int = 4,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        init_cfg: InitRules = RETINA_RULES,
        **kwargs: Any,
    ) -> None:
        """``stacked_convs`` blocks per tower; the rest as in ``GuidedAnchorHead``."""
        self.stacked_convs, self.conv_cfg, self.norm_cfg = stacked_convs, conv_cfg, norm_cfg
        super().__init__(init_cfg=init_cfg, **kwargs)

    def _make_layers(self) -> None:
        add_towers(self, self.stacked_convs, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        width = self.feat_channels
        self.conv_loc = nn.Conv2d(width, 1, 1)
        self.conv_shape = nn.Conv2d(width, 2, 1)
        self.feature_adaption_cls = FeatureAdaption(width, width, deform_groups=self.deform_groups)
        self.feature_adaption_reg = FeatureAdaption(width, width, deform_groups=self.deform_groups)
        self.retina_cls = nn.Conv2d(width, self.cls_out_channels, 3, padding=1)
        self.retina_reg = nn.Conv2d(width, 4, 3, padding=1)

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """As in ``GuidedAnchorHead``, with a tower each for classes and boxes."""
        cls_feat, reg_feat = through(self.cls_convs, x), through(self.reg_convs, x)
        location, shape = self.conv_loc(cls_feat), self.conv_shape(reg_feat)
        logits = self.retina_cls(self.feature_adaption_cls(cls_feat, shape))
        deltas = self.retina_reg(self.feature_adaption_reg(reg_feat, shape))
        return (*self.masked(logits, deltas, location), shape, location)
