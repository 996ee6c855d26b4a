"""What a sampler returns, and what it must offer.

Shapes: P candidates, S sampled (positives first), S_pos of them positive, G ground-truth boxes.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from detector.targets.assigners.assignment import BACKGROUND, Assignment


@dataclass(frozen=True)
class Sampled:
    """The candidates of one image that enter the loss.

    Attributes:
        pos_index: (S_pos,) int64 rows of the candidates (ground truth first when it was added).
        neg_index: (S - S_pos,) int64.
        pos_boxes: (S_pos, 4).
        neg_boxes: (S - S_pos, 4).
        pos_gt_index: (S_pos,) int64 rows of the ground truth.
        pos_gt_boxes: (S_pos, 4).
        pos_gt_labels: (S_pos,) int64, or None when labels were not given (RPN).
        neg_label_weights: (S - S_pos,) of the classification loss, or None for ones.
    """

    pos_index: Tensor
    neg_index: Tensor
    pos_boxes: Tensor
    neg_boxes: Tensor
    pos_gt_index: Tensor
    pos_gt_boxes: Tensor
    pos_gt_labels: Tensor | None
    neg_label_weights: Tensor | None = None

    @property
    def boxes(self) -> Tensor:
        """(S, 4) positives, then negatives."""
        return torch.cat((self.pos_boxes, self.neg_boxes))


class Sampler(Protocol):
    """Choose candidates for the loss."""

    def sample(
        self, assignment: Assignment, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor | None = None
    ) -> Sampled:
        """An assignment of (P, 4) candidates to (G, 4) boxes gives the chosen ones."""
        ...


class RegionJudge(Protocol):
    """What a box head thinks of candidate regions of one image; asked by samplers that mine hard ones."""

    num_classes: int

    def losses(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """Classification losses (n,) of regions (n, 4) if they had these labels (n,)."""
        ...

    def predictions(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Best foreground probability (n,) of regions (n, 4), and the box (n, 4) of that class."""
        ...


@runtime_checkable
class JudgingSampler(Protocol):
    """Choose candidates with the help of the box head that will learn from them."""

    def sample_judged(
        self, assignment: Assignment, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor, judge: RegionJudge
    ) -> Sampled:
        """As ``Sampler.sample``, with the box head's view of the same image."""
        ...


def with_ground_truth(
    index: Tensor, overlap: Tensor, boxes: Tensor, gt_boxes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Put G ground-truth boxes in front of P candidates: their index, overlap and boxes, G + P rows each."""
    own = torch.arange(len(gt_boxes), device=index.device)
    return (
        torch.cat((own, index)),
        torch.cat((overlap.new_ones(len(own)), overlap)),
        torch.cat((gt_boxes, boxes)),
    )


def room_for_negatives(num: int, num_pos: int, neg_pos_ub: float) -> int:
    """How many negatives fit beside ``num_pos`` positives."""
    room = num - num_pos
    return min(room, int(neg_pos_ub * max(1, num_pos))) if neg_pos_ub >= 0 else room


def collect(
    pos: Tensor, neg: Tensor, gt_index: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor | None
) -> Sampled:
    """Gather what belongs to chosen rows."""
    pos_gt = gt_index[pos]
    return Sampled(
        pos_index=pos,
        neg_index=neg,
        pos_boxes=boxes[pos],
        neg_boxes=boxes[neg],
        pos_gt_index=pos_gt,
        pos_gt_boxes=gt_boxes.reshape(-1, 4)[pos_gt],
        pos_gt_labels=None if gt_labels is None else gt_labels[pos_gt],
    )


def positives(gt_index: Tensor) -> Tensor:
    """Rows assigned to a box, ascending."""
    return torch.nonzero(gt_index >= 0).flatten()


def negatives(gt_index: Tensor) -> Tensor:
    """Rows assigned to background, ascending."""
    return torch.nonzero(gt_index == BACKGROUND).flatten()
