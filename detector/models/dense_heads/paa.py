"""PAA: anchors chosen by how likely their losses are, with a predicted IoU per box.

Shapes: B images, P anchors of all levels, C classes, S candidates of the batch, K detections of one image.
Boxes: xyxy, pixels of the padded network input, or of the original image where said.
Paper: Kim and Lee, ECCV 2020, arXiv:2007.08103. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/paa_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detector.models.dense_heads.anchor_targets import AnchorTargets, flatten_levels, map_sizes
from detector.models.dense_heads.atss import ATSSHead
from detector.models.dense_heads.selection import Candidates, best_rows, cell_rows, suppress, to_original
from detector.ops.iou import aligned_iou, pairwise_iou
from detector.structures.samples import Detections, ImageMeta, Targets
from detector.targets.assigners.mixture import keep_likely

_EPS = 1e-12


def vote(found: Detections, rivals: Candidates) -> Detections:
    """Move every detection to the mean of its overlapping rivals of the same class.

    Args:
        found: K detections.
        rivals: all boxes before suppression, with the scores that decided it.

    Returns:
        the K detections class by class, scores unchanged.
    """
    order = found.labels.argsort(stable=True)
    boxes, labels = found.boxes[order], found.labels[order]
    overlap = pairwise_iou(boxes, rivals.boxes)
    same = (overlap > 0.01) & (labels[:, None] == rivals.labels[None])
    weight = torch.exp(-((1 - overlap) ** 2) / 0.025) * rivals.scores * same
    voted = weight @ rivals.boxes / weight.sum(dim=1, keepdim=True)
    return Detections(boxes=voted, scores=found.scores[order], labels=labels)


class PAAHead(ATSSHead):
    """ATSS's layers; the third map is an IoU."""

    merges_views = False  # scores are voted on after suppression

    def __init__(
        self, *, topk: int = 9, score_voting: bool = True, covariance_type: str = "diag", **kwargs: Any
    ) -> None:
        """Describe the head; the rest as in ``ATSSHead``.

        Args:
            topk: candidates of one box and level that enter the mixture.
            score_voting: average overlapping boxes after suppression.
            covariance_type: tied, or full, diag and spherical, which are one for losses.
            **kwargs: arguments of ``ATSSHead``.
        """
        self.topk, self.with_score_voting, self.covariance_type = topk, score_voting, covariance_type
        super().__init__(**kwargs)

    def loss(self, raw: Any, targets: Sequence[Targets], metas: Sequence[ImageMeta]) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_iou, scalars.

        Classes and IoU are divided by the number of positives, boxes by the sum of their IoU.
        """
        found = self.find_targets(map_sizes(raw[0]), targets, metas)
        logits = flatten_levels(raw[0], self.cls_out_channels).flatten(0, 1)
        deltas = flatten_levels(raw[1], 4).flatten(0, 1)
        keep = self.reassign(logits, deltas, found, self.level_counts(map_sizes(raw[0])), len(targets))
        return self.losses_of(
            logits, deltas, flatten_levels(raw[2], 1).flatten(), chosen(found, keep), len(metas)
        )

    def losses_of(
        self, logits: Tensor, deltas: Tensor, qualities: Tensor, found: AnchorTargets, num_images: int
    ) -> dict[str, Tensor]:
        """The losses of final targets.

        Args:
            logits: (B * P, C).
            deltas: (B * P, 4).
            qualities: (B * P,) logits of the IoU.
            found: positives and negatives.
            num_images: B, the least to divide classes by.
        """
        count = len(found.pos_rows)
        labels = found.labels(len(logits), self.num_classes)
        weights = found.weights(len(logits), self.training_settings().pos_weight)
        boxes = self.bbox_coder.decode(found.pos_anchors, deltas[found.pos_rows])
        overlap = aligned_iou(boxes.detach(), found.pos_gt_boxes)
        quality = qualities[found.pos_rows]
        return {
            "loss_cls": self.loss_cls(logits, labels, weights, avg_factor=max(count, num_images)),
            "loss_bbox": self.loss_bbox(
                boxes, found.pos_gt_boxes, overlap.clamp(min=_EPS), avg_factor=overlap.sum()
            ),
            "loss_iou": self.loss_centerness(quality, overlap, avg_factor=max(count, 1)),
        }

    @torch.no_grad()
    def reassign(
        self, logits: Tensor, deltas: Tensor, found: AnchorTargets, counts: Sequence[int], num_images: int
    ) -> Tensor:
        """Which candidates (S,) stay positive.

        Args:
            logits: (B * P, C).
            deltas: (B * P, 4).
            found: S candidates of the first assignment.
            counts: anchors per image of each level.
            num_images: B.
        """
        rows, num_anchors = found.pos_rows, sum(counts)
        losses = self.candidate_losses(logits[rows], deltas[rows], found)
        ends = torch.tensor(counts, device=rows.device).cumsum(dim=0)
        groups = found.pos_gt_index * num_images + rows // num_anchors
        levels = torch.searchsorted(ends, rows % num_anchors, right=True)
        return keep_likely(losses, groups, levels, topk=self.topk, tied=self.covariance_type == "tied")

    def candidate_losses(self, logits: Tensor, deltas: Tensor, found: AnchorTargets) -> Tensor:
        """Class and box loss (S,) of every candidate, from its logits (S, C) and deltas (S, 4)."""
        weight = logits.new_ones(len(logits))
        if self.training_settings().pos_weight > 0:
            weight = weight * self.training_settings().pos_weight
        class_loss = self.loss_cls(logits, found.pos_labels, weight, reduction="none").sum(dim=-1)
        boxes = self.bbox_coder.decode(found.pos_anchors, deltas)
        return self.loss_bbox(boxes, found.pos_gt_boxes, reduction="none") + class_loss

    @torch.no_grad()
    def select(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Candidates]:
        """Candidates of B images before suppression, in original pixels with ``rescale``.

        Scores are geometric means of class score and IoU; the best priors of a level keep all their classes.
        """
        priors = self.prior_generator.grid_priors(map_sizes(raw[0]), raw[0][0].device)
        results = []
        for b, meta in enumerate(metas):
            parts = [
                self._level_scores(logits[b], deltas[b], quality[b], level_priors, meta)
                for logits, deltas, quality, level_priors in zip(*raw, priors, strict=True)
            ]
            boxes, scores, class_scores = (torch.cat(part) for part in zip(*parts, strict=True))
            rows, labels = torch.nonzero(scores > self.test_cfg.score_thr, as_tuple=True)
            found = Candidates(boxes[rows], scores[rows, labels], labels, class_scores[rows, labels])
            results.append(to_original(found, meta, rescale=rescale))
        return results

    def _level_scores(
        self, logits: Tensor, deltas: Tensor, quality: Tensor, priors: Tensor, meta: ImageMeta
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (k, 4), joint scores (k, C) and class scores (k, C) of the best priors of one level."""
        scores = cell_rows(logits, self.cls_out_channels).sigmoid()
        values = cell_rows(deltas, 4)
        joint = (scores * cell_rows(quality, 1).sigmoid()).sqrt()
        if 0 < self.test_cfg.nms_pre < len(joint):
            rows = best_rows(joint.amax(dim=1)[None], self.test_cfg.nms_pre)[0]
            scores, values, joint, priors = scores[rows], values[rows], joint[rows], priors[rows]
        return self.bbox_coder.decode(priors, values, max_hw=meta.input_hw), joint, scores

    def predict(self, raw: Any, metas: Sequence[ImageMeta], *, rescale: bool) -> list[Detections]:
        """Detections of B images, in original pixels with ``rescale``.

        Best first; with score voting class by class, each best first.
        """
        return [self._suppressed(found) for found in self.select(raw, metas, rescale=rescale)]

    def _suppressed(self, rivals: Candidates) -> Detections:
        found = suppress(rivals, self.test_cfg)
        return vote(found, rivals) if self.with_score_voting and len(found) else found


def chosen(found: AnchorTargets, keep: Tensor) -> AnchorTargets:
    """The same targets with the positives (S,) that ``keep`` names; the others become negatives."""
    fields = ("pos_rows", "pos_anchors", "pos_gt_boxes", "pos_labels", "pos_gt_index")
    return replace(
        found,
        **{name: getattr(found, name)[keep] for name in fields},
        neg_rows=torch.cat((found.neg_rows, found.pos_rows[~keep])),
    )
