"""Region proposal network.

Shapes: B images, L levels, A anchors per cell, P anchors of all levels, K proposals of one image.
Boxes: xyxy, pixels of the padded network input, no +1.
Paper: Ren et al., NeurIPS 2015, arXiv:1506.01497; checked against mmdet 2.28.2
models/dense_heads/rpn_head.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.models.dense_heads.anchor_targets import anchor_targets, flatten_levels, map_sizes
from detector.models.dense_heads.selection import best_rows
from detector.ops.merging import merge_proposals
from detector.ops.nms import batched_nms
from detector.structures.samples import ImageMeta, Targets
from detector.structures.specs import InitSpec, NmsSpec, Spec
from detector.targets.assigners.assignment import Assigner
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.samplers.pseudo import PseudoSampler
from detector.targets.samplers.sampling import Sampler

RawOutputs = tuple[list[Tensor], list[Tensor]]
NMS_07 = NmsSpec(iou_threshold=0.7)
NORMAL_CONV = InitSpec(type="Normal", layer="Conv2d", std=0.01)


@dataclass(frozen=True)
class RPNTrainSpec(Spec):
    """How anchors become targets; ``allowed_border`` in pixels (-1: any), ``pos_weight`` -1 means 1."""

    assigner: Assigner
    sampler: Sampler | None = None
    allowed_border: float = -1
    pos_weight: float = -1
    debug: bool = False


@dataclass(frozen=True)
class ProposalSpec(Spec):
    """How raw outputs become proposals; sizes in pixels must exceed ``min_bbox_size`` (-1 keeps all)."""

    nms_pre: int = -1
    max_per_img: int = 1000
    nms: NmsSpec = NMS_07
    min_bbox_size: float = 0


def best_proposals(boxes: Tensor, scores: Tensor, levels: Tensor, spec: ProposalSpec) -> Tensor:
    """Proposals (K, 5) of one image, best first: without small boxes, suppressed within levels, cut.

    Args:
        boxes: (n, 4).
        scores: (n,).
        levels: (n,) int64.
        spec: sizes and numbers.
    """
    if spec.min_bbox_size >= 0:
        keep = ((boxes[:, 2:] - boxes[:, :2]) > spec.min_bbox_size).all(dim=1)
        boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
    kept, kept_scores = batched_nms(boxes, scores, levels, spec.nms)
    kept, kept_scores = kept[: spec.max_per_img], kept_scores[: spec.max_per_img]
    return torch.cat((boxes[kept], kept_scores[:, None]), dim=1)


def merged_views(found: Sequence[Tensor], metas: Sequence[ImageMeta], spec: ProposalSpec) -> Tensor:
    """One image's proposals (K, 5) in original pixels, best first, from those (n, 5) of several views."""
    return merge_proposals(found, metas, iou_threshold=spec.nms.iou_threshold, max_num=spec.max_per_img)


class RPNHead(nn.Module):
    """Objectness and box per anchor. Attribute names are the checkpoint format (MMDetection 2.28)."""

    def __init__(
        self,
        *,
        in_channels: int,
        anchor_generator: AnchorGenerator,
        bbox_coder: DeltaXYWHBBoxCoder,
        loss_cls: nn.Module,
        loss_bbox: nn.Module,
        feat_channels: int = 256,
        num_convs: int = 1,
        num_classes: int = 1,
        reg_decoded_bbox: bool = False,
        train_cfg: RPNTrainSpec | None = None,
        test_cfg: ProposalSpec | None = None,
        proposal_cfg: ProposalSpec | None = None,
        init_cfg: InitRules = NORMAL_CONV,
    ) -> None:
        """Describe the head.

        Args:
            in_channels: channels of the feature maps.
            anchor_generator: anchors of every level.
            bbox_coder: between anchors and boxes.
            loss_cls: objectness loss; ``use_sigmoid`` decides between one and two channels per anchor.
            loss_bbox: box loss.
            feat_channels: channels of the hidden convolution.
            num_convs: number of hidden convolutions.
            num_classes: 1.
            reg_decoded_bbox: the box loss compares boxes instead of deltas.
            train_cfg: assigner and sampler; None builds a head for testing only.
            test_cfg: proposals in testing.
            proposal_cfg: proposals in training; default as in testing.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.anchor_generator, self.bbox_coder = anchor_generator, bbox_coder
        self.loss_cls, self.loss_bbox = loss_cls, loss_bbox
        self.train_cfg, self.test_cfg = train_cfg, test_cfg or ProposalSpec()
        self.proposal_cfg, self.init_cfg = proposal_cfg or self.test_cfg, init_cfg
        self.reg_decoded_bbox, self.num_classes = reg_decoded_bbox, num_classes
        self.use_sigmoid = bool(getattr(loss_cls, "use_sigmoid", False))
        self.cls_out_channels = num_classes if self.use_sigmoid else num_classes + 1
        self.rpn_conv: nn.Module
        if num_convs > 1:
            widths = [in_channels] + [feat_channels] * num_convs
            self.rpn_conv = nn.Sequential(
                *[ConvModule(a, b, 3, padding=1, inplace=False) for a, b in pairwise(widths)]
            )
        else:
            self.rpn_conv = nn.Conv2d(in_channels, feat_channels, 3, padding=1)
        anchors = anchor_generator.num_base_priors[0]
        self.rpn_cls = nn.Conv2d(feat_channels, anchors * self.cls_out_channels, 1)
        self.rpn_reg = nn.Conv2d(feat_channels, anchors * 4, 1)

    def init_weights(self) -> None:
        """Normal convolutions with std 0.01 unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def forward(self, feats: Sequence[Tensor]) -> RawOutputs:
        """L maps (B, C, h, w) give L logits (B, A * channels, h, w) and L deltas (B, A * 4, h, w)."""
        hidden = [functional.relu(self.rpn_conv(x)) for x in feats]
        return [self.rpn_cls(x) for x in hidden], [self.rpn_reg(x) for x in hidden]

    def loss(
        self, raw: RawOutputs, targets: Sequence[Targets], metas: Sequence[ImageMeta]
    ) -> dict[str, Tensor]:
        """Objectness and box loss, scalars summed over levels, divided by the number of sampled anchors."""
        spec = self.train_cfg
        if spec is None:
            raise RuntimeError("RPNHead was built without train_cfg and cannot compute a loss.")
        sampler = spec.sampler or PseudoSampler()
        found = anchor_targets(
            self.anchor_generator,
            map_sizes(raw[0]),
            targets,
            metas,
            assigner=spec.assigner,
            sampler=sampler,
            allowed_border=spec.allowed_border,
            with_labels=False,
        )
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1)
        deltas = flatten_levels(raw[1], 4).flatten(0, 1)[found.pos_rows]
        count = found.num_pos + (0 if isinstance(sampler, PseudoSampler) else found.num_neg)
        num_pos, num_neg = len(found.pos_rows), len(found.neg_rows)
        labels = torch.cat((found.pos_labels, torch.full_like(found.neg_rows, self.num_classes)))
        weights = logits.new_ones(num_pos + num_neg)
        if spec.pos_weight > 0:
            weights[:num_pos] = spec.pos_weight
        chosen = logits[torch.cat((found.pos_rows, found.neg_rows))]
        if self.reg_decoded_bbox:
            boxes, wanted = self.bbox_coder.decode(found.pos_anchors, deltas), found.pos_gt_boxes
        else:
            boxes, wanted = deltas, self.bbox_coder.encode(found.pos_anchors, found.pos_gt_boxes)
        return {
            "loss_rpn_cls": self.loss_cls(chosen, labels, weights, avg_factor=count),
            "loss_rpn_bbox": self.loss_bbox(boxes, wanted, torch.ones_like(wanted), avg_factor=count),
        }

    @torch.no_grad()
    def propose(
        self, raw: RawOutputs, metas: Sequence[ImageMeta], spec: ProposalSpec | None = None
    ) -> list[Tensor]:
        """Proposals of every image, (K, 5) xyxy and score, best first.

        ``spec`` None means the test settings.
        """
        spec = spec or self.test_cfg
        anchors = self.anchor_generator.grid_priors(map_sizes(raw[0]), raw[0][0].device)
        scores, deltas, priors, levels = [], [], [], []
        for i, (cls, reg) in enumerate(zip(*raw, strict=True)):
            level_logits = flatten_levels([cls.detach().float()], self.cls_out_channels)
            level_scores = (
                level_logits[..., 0].sigmoid() if self.use_sigmoid else level_logits.softmax(dim=-1)[..., 0]
            )
            level_deltas, rows = flatten_levels([reg.detach().float()], 4), None
            if 0 < spec.nms_pre < level_scores.shape[1]:
                rows = best_rows(level_scores, spec.nms_pre)
                level_scores = level_scores.gather(1, rows)
                level_deltas = level_deltas.gather(1, rows[..., None].expand(-1, -1, 4))
            scores.append(level_scores)
            deltas.append(level_deltas)
            priors.append(anchors[i].expand(len(level_scores), -1, -1) if rows is None else anchors[i][rows])
            levels.append(torch.full((level_scores.shape[1],), i, device=level_scores.device))
        merged = (
            torch.cat(scores, dim=1),
            torch.cat(deltas, dim=1),
            torch.cat(priors, dim=1),
            torch.cat(levels),
        )
        return [
            self._propose_image(merged[0][b], merged[1][b], merged[2][b], merged[3], meta.input_hw, spec)
            for b, meta in enumerate(metas)
        ]

    def propose_views(self, raws: Iterable[RawOutputs], metas: Sequence[ImageMeta]) -> Tensor:
        """Proposals of one image, (K, 5) box in original pixels and score, best first, from several views.

        Args:
            raws: raw outputs of each view, a batch of one.
            metas: of each view.
        """
        found = [self.propose(raw, [meta])[0] for raw, meta in zip(raws, metas, strict=True)]
        return merged_views(found, metas, self.test_cfg)

    def _propose_image(
        self,
        scores: Tensor,
        deltas: Tensor,
        priors: Tensor,
        levels: Tensor,
        hw: tuple[int, int],
        spec: ProposalSpec,
    ) -> Tensor:
        """Decode, drop small boxes and suppress per level."""
        return best_proposals(self.bbox_coder.decode(priors, deltas, max_hw=hw), scores, levels, spec)
