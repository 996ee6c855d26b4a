"""Class and box of every anchor: the plain head and what all heads on anchors share.

Shapes: B images, L levels, A anchors per cell, P_l anchors of level l, C classes.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Ren et al., NeurIPS 2015, arXiv:1506.01497. Attribute names are the checkpoint format (MMDetection
2.28, models/dense_heads/anchor_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.losses.focal import FocalLoss
from detector.losses.gfocal import QualityFocalLoss
from detector.losses.ghm import GHMC
from detector.losses.smooth_l1 import SmoothL1Loss
from detector.models.dense_heads.anchor_targets import AnchorTargets, anchor_targets, map_sizes
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
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.structures.specs import InitSpec, Spec
from detector.targets.assigners.assignment import Assigner, LevelAssigner
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.samplers.pseudo import PseudoSampler
from detector.targets.samplers.sampling import Sampler

NORMAL_CONV = InitSpec(type="Normal", layer="Conv2d", std=0.01)


@dataclass(frozen=True)
class AnchorTrainSpec(Spec):
    """How anchors become targets; ``allowed_border`` in pixels (-1: any), ``pos_weight`` -1 means 1."""

    assigner: Assigner | LevelAssigner
    sampler: Sampler | None = None
    allowed_border: float = -1
    pos_weight: float = -1
    debug: bool = False


def level_rows(level_map: Tensor, channels: int) -> Tensor:
    """A map (B, A * channels, h, w) as rows (B * P_l, channels) in the order of the anchors."""
    return level_map.permute(0, 2, 3, 1).reshape(-1, channels)


class AnchorHead(DenseHead):
    """One 1x1 convolution each for classes and boxes; base of the heads on anchors."""

    merges_views = True

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        anchor_generator: AnchorGenerator | None = None,
        bbox_coder: DeltaXYWHBBoxCoder | None = None,
        reg_decoded_bbox: bool = False,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: AnchorTrainSpec | None = None,
        test_cfg: DenseTestSpec | None = None,
        init_cfg: InitRules = NORMAL_CONV,
    ) -> None:
        """Describe the head.

        Args:
            num_classes: classes without background.
            in_channels: channels of the feature maps.
            feat_channels: channels of hidden convolutions, where there are any.
            anchor_generator: anchors of every level.
            bbox_coder: between anchors and boxes.
            reg_decoded_bbox: the box loss compares boxes instead of deltas.
            loss_cls: class loss; its ``use_sigmoid`` decides between C and C + 1 channels per anchor.
            loss_bbox: box loss.
            train_cfg: assigner and sampler; None builds a head for testing only.
            test_cfg: which detections to keep.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.num_classes, self.in_channels, self.feat_channels = num_classes, in_channels, feat_channels
        self.prior_generator = anchor_generator or self.default_anchors()
        self.bbox_coder = bbox_coder or DeltaXYWHBBoxCoder()
        self.reg_decoded_bbox = reg_decoded_bbox
        self.loss_cls = CrossEntropyLoss(use_sigmoid=True) if loss_cls is None else loss_cls
        self.loss_bbox = SmoothL1Loss(beta=1 / 9) if loss_bbox is None else loss_bbox
        self.train_cfg, self.test_cfg, self.init_cfg = train_cfg, test_cfg or DenseTestSpec(), init_cfg
        self.use_sigmoid = bool(getattr(self.loss_cls, "use_sigmoid", False))
        self.cls_out_channels = num_classes if self.use_sigmoid else num_classes + 1
        self.num_base_priors = self.prior_generator.num_base_priors[0]

        self._make_layers()

    @staticmethod
    def default_anchors() -> AnchorGenerator:
        """Anchors where the config names none."""
        return AnchorGenerator(scales=[8, 16, 32], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])

    def _make_layers(self) -> None:
        """Add the layers under the names of the checkpoint format."""
        self.conv_cls = nn.Conv2d(self.in_channels, self.num_base_priors * self.cls_out_channels, 1)
        self.conv_reg = nn.Conv2d(self.in_channels, self.num_base_priors * 4, 1)

    def init_weights(self) -> None:
        """Normal convolutions with std 0.01 unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """L maps (B, C_in, h, w) give L logits (B, A * channels, h, w) and L deltas (B, A * 4, h, w).

        Heads with more outputs per level give further lists.
        """
        levels = [self.forward_level(x, i) for i, x in enumerate(feats)]
        return tuple(list(maps) for maps in zip(*levels, strict=True))

    def forward_level(self, x: Tensor, level: int) -> tuple[Tensor, ...]:
        """Raw outputs of one level."""
        return self.conv_cls(x), self.conv_reg(x)

    def training_settings(self) -> AnchorTrainSpec:
        """The training settings.

        Raises:
            RuntimeError: the head was built for testing only.
        """
        if self.train_cfg is None:
            raise RuntimeError(
                f"{type(self).__name__} was built without train_cfg and cannot compute a loss."
            )
        return self.train_cfg

    @property
    def sampling(self) -> Sampler | None:
        """A sampler that leaves anchors out; None where all count.

        Losses that weigh all anchors themselves ignore the configured sampler, as in the reference.
        """
        chosen = self.training_settings().sampler
        weighs_all = isinstance(self.loss_cls, (FocalLoss, GHMC, QualityFocalLoss))
        return None if weighs_all or isinstance(chosen, PseudoSampler) else chosen

    def find_targets(
        self, sizes: Sequence[tuple[int, int]], targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> AnchorTargets:
        """Assigned and sampled anchors of B images, for L maps of ``sizes`` (h, w)."""
        spec = self.training_settings()
        return anchor_targets(
            self.prior_generator,
            sizes,
            targets,
            metas,
            assigner=spec.assigner,
            sampler=self.sampling or PseudoSampler(),
            allowed_border=spec.allowed_border,
            with_labels=True,
        )

    def level_counts(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Anchors P_l per image of each level."""
        return [h * w * a for (h, w), a in zip(sizes, self.prior_generator.num_base_priors, strict=True)]

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls and loss_bbox, scalars summed over levels, divided by the number of (sampled) anchors."""
        found = self.find_targets(map_sizes(raw[0]), targets, metas)
        count = found.num_pos + (found.num_neg if self.sampling is not None else 0)
        return {
            "loss_cls": self.class_loss(raw[0], found, count),
            "loss_bbox": self.box_loss(raw[1], found, count),
        }

    def class_loss(
        self,
        logits: Sequence[Tensor],
        found: AnchorTargets,
        count: float | Tensor,
        pos_weights: Tensor | None = None,
    ) -> Tensor:
        """Scalar class loss of L maps (B, A * channels, h, w), level by level, divided by ``count``.

        ``pos_weights`` (S_pos,) take the place of the configured weight of positives.
        """
        counts, batch = self.level_counts(map_sizes(logits)), len(logits[0])
        num_rows = batch * sum(counts)
        labels = found.labels(num_rows, self.num_classes).reshape(batch, -1).split(counts, dim=1)
        configured = self.training_settings().pos_weight
        weights = found.weights(num_rows, configured if pos_weights is None else pos_weights)
        losses = [
            self.loss_cls(
                level_rows(maps, self.cls_out_channels), own.flatten(), weight.flatten(), avg_factor=count
            )
            for maps, own, weight in zip(
                logits, labels, weights.reshape(batch, -1).split(counts, dim=1), strict=True
            )
        ]
        return torch.stack(losses).sum()

    def box_loss(self, deltas: Sequence[Tensor], found: AnchorTargets, count: float | Tensor) -> Tensor:
        """Scalar box loss of the positives of L maps (B, A * 4, h, w) by level, divided by ``count``."""
        losses = []
        places = found.per_level(self.level_counts(map_sizes(deltas)))
        for maps, (places_in_level, rows) in zip(deltas, places, strict=True):
            chosen = level_rows(maps, 4)[rows]
            anchors, boxes = found.pos_anchors[places_in_level], found.pos_gt_boxes[places_in_level]
            if self.reg_decoded_bbox:
                chosen, wanted = self.bbox_coder.decode(anchors, chosen), boxes
            else:
                wanted = self.bbox_coder.encode(anchors, boxes)
            losses.append(self.loss_bbox(chosen, wanted, torch.ones_like(wanted), avg_factor=count))
        return torch.stack(losses).sum()

    def quality_maps(self, raw: Any) -> Sequence[Tensor] | None:
        """L maps (B, A, h, w) of quality logits among the raw outputs, None where the head has none."""
        return raw[2] if len(raw) > 2 else None

    def decode_chosen(self, level: int, priors: Tensor, values: Tensor, hw: tuple[int, int]) -> Tensor:
        """Boxes (K, 4), clipped to ``hw``, of K anchors and their box columns."""
        return self.bbox_coder.decode(priors, values, max_hw=hw)

    @torch.no_grad()
    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images before suppression, in original pixels with ``rescale``."""
        logits, boxes, quality = raw[0], raw[1], self.quality_maps(raw)
        priors = self.prior_generator.grid_priors(map_sizes(logits), logits[0].device)
        results = []
        for b, meta in enumerate(metas):
            found = candidates(
                [m[b] for m in logits],
                [m[b] for m in boxes],
                priors,
                meta,
                self.decode_chosen,
                spec=self.test_cfg,
                channels=self.cls_out_channels,
                activation=sigmoid_scores if self.use_sigmoid else softmax_scores,
                factors=None if quality is None else [m[b] for m in quality],
                box_columns=boxes[0].shape[1] // self.num_base_priors,
            )
            results.append(to_original(found, meta, rescale=rescale))
        return results

    def predict(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Detections]:
        """Detections of B images, best first, in original pixels with ``rescale``."""
        return [suppress(found, self.test_cfg) for found in self.select(raw, metas, rescale=rescale)]
