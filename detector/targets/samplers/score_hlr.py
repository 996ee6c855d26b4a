"""Negatives ranked by how likely they are to become false positives (PISA's ISR-N).

Shapes: P candidates, G ground-truth boxes, n negatives.
Boxes: xyxy, pixels of the network input.
Paper: Cao et al., CVPR 2020, arXiv:1904.04821; checked against mmdet 2.28.2
core/bbox/samplers/score_hlr_sampler.py.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from detector.ops.iou import pairwise_iou
from detector.targets.assigners.assignment import Assignment
from detector.targets.samplers.random import choose
from detector.targets.samplers.sampling import (
    RegionJudge,
    Sampled,
    collect,
    negatives,
    positives,
    room_for_negatives,
    with_ground_truth,
)


def nms_groups(boxes: Tensor, scores: Tensor, iou_threshold: float) -> list[Tensor]:
    """Split boxes into groups, each a box that suppression would keep and those that it would drop.

    Args:
        boxes: (n, 4).
        scores: (n,).
        iou_threshold: boxes above this overlap with the kept one belong to its group.

    Returns:
        rows of each group, best score first.

    Source: mmcv 1.7 ops/nms.py nms_match.
    """
    order, groups = scores.argsort(descending=True, stable=True), []
    while len(order):
        with_best = pairwise_iou(boxes[order[:1]], boxes[order])[0] > iou_threshold
        with_best[0] = True
        groups.append(order[with_best])
        order = order[~with_best]
    return groups


def hierarchical_rank(scores: Tensor, groups: list[Tensor]) -> Tensor:
    """Rank (n,) from 0: first by the place within the group, then by score."""
    importance = torch.zeros_like(scores)
    for group in groups:
        place = torch.arange(len(group), device=scores.device)
        importance[group] = len(scores) - place + scores[group]
    return importance.argsort(descending=True, stable=True).argsort()


class ScoreHLRSampler:
    """Random positives; the negatives that suppression would keep first, weighted by their rank.

    Random choices come from torch's global CPU generator.
    """

    def __init__(
        self,
        *,
        num: int,
        pos_fraction: float,
        neg_pos_ub: float = -1,
        add_gt_as_proposals: bool = True,
        k: float = 0.5,
        bias: float = 0,
        score_thr: float = 0.05,
        iou_thr: float = 0.5,
    ) -> None:
        """Set sizes and weights.

        Args:
            num: candidates per image.
            pos_fraction: largest share of positives.
            neg_pos_ub: largest ratio of negatives to positives; -1 is no limit.
            add_gt_as_proposals: put the ground truth in front of the candidates.
            k: power of the weights.
            bias: least weight before the power.
            score_thr: probability above which a negative is ranked.
            iou_thr: overlap that makes ranked negatives one group.
        """
        self.num, self.pos_fraction, self.neg_pos_ub = num, pos_fraction, neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals
        self.k, self.bias, self.score_thr, self.iou_thr = k, bias, score_thr, iou_thr

    def sample_judged(
        self, assignment: Assignment, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor, judge: RegionJudge
    ) -> Sampled:
        """(P, 4) candidates and (G, 4) boxes; the result carries weights of the negatives."""
        index = assignment.gt_index
        if self.add_gt_as_proposals and len(gt_boxes):
            index, _, boxes = with_ground_truth(index, assignment.overlap, boxes, gt_boxes)
        pos = choose(positives(index), int(self.num * self.pos_fraction))
        rows = negatives(index)
        count = min(room_for_negatives(self.num, len(pos), self.neg_pos_ub), len(rows))
        if count == 0:
            return collect(pos, rows[:0], index, boxes, gt_boxes, gt_labels)
        neg, weights = self._choose(rows, boxes[rows], count, judge)
        return replace(collect(pos, neg, index, boxes, gt_boxes, gt_labels), neg_label_weights=weights)

    def _choose(self, rows: Tensor, boxes: Tensor, count: int, judge: RegionJudge) -> tuple[Tensor, Tensor]:
        """``count`` of the n negatives, ranked ones first, and their weights."""
        scores, predicted = judge.predictions(boxes)
        ranked = torch.nonzero(scores > self.score_thr).flatten()
        if len(ranked) == 0:
            return choose(rows, count), boxes.new_ones(count)
        groups = nms_groups(predicted[ranked], scores[ranked], self.iou_thr)
        rank = hierarchical_rank(scores[ranked], groups)
        best = rank.argsort()[:count]
        others = torch.nonzero(scores <= self.score_thr).flatten()
        chosen = torch.cat((ranked[best], choose(others, count - len(best))))
        bound = max(count, len(ranked))
        known = (bound - rank[best].to(boxes)) / bound
        weights = torch.cat((known, known.min().expand(count - len(best))))
        weights = (self.bias + (1 - self.bias) * weights) ** self.k
        # the weights move the loss between the regions but keep its sum
        losses = judge.losses(boxes[chosen], torch.full_like(chosen, judge.num_classes))
        weights = weights * (
            losses.sum() / (losses * weights).sum().clamp(min=torch.finfo(losses.dtype).tiny)
        )
        return rows[chosen], weights
