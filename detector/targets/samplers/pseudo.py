"""No sampling: every positive and every background candidate.

Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from torch import Tensor

from detector.targets.assigners.assignment import Assignment
from detector.targets.samplers.sampling import Sampled, collect, negatives, positives


class PseudoSampler:
    """Take everything that is not ignored."""

    def sample(
        self, assignment: Assignment, boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor | None = None
    ) -> Sampled:
        """(P, 4) candidates and (G, 4) boxes; order of the candidates kept."""
        index = assignment.gt_index
        return collect(positives(index), negatives(index), index, boxes, gt_boxes, gt_labels)
