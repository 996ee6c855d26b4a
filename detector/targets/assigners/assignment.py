"""What an assigner returns, and what it must offer.

Shapes: P priors or proposals, G ground-truth boxes of one image, K ignored boxes.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

BACKGROUND = -1
IGNORE = -2


@dataclass(frozen=True)
class Assignment:
    """One decision per prior.

    Attributes:
        gt_index: (P,) int64; a row of the ground truth, ``BACKGROUND`` or ``IGNORE``.
        overlap: (P,) largest IoU with any ground-truth box, 0 where there is none.
    """

    gt_index: Tensor
    overlap: Tensor


class Assigner(Protocol):
    """Decide which ground-truth box every prior stands for."""

    def assign(self, boxes: Tensor, gt_boxes: Tensor, ignore_boxes: Tensor | None = None) -> Assignment:
        """(P, 4), (G, 4) and (K, 4) give an assignment; G and K may be 0."""
        ...


@runtime_checkable
class LevelAssigner(Protocol):
    """An assigner that must know which level a prior is of."""

    def assign_levels(
        self,
        boxes: Tensor,
        counts: Sequence[int],
        gt_boxes: Tensor,
        ignore_boxes: Tensor | None = None,
    ) -> Assignment:
        """As ``Assigner.assign``, with the number of priors of each level, in order."""
        ...
