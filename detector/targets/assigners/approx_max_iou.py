"""Assignment of cells by the best of several boxes around each.

Shapes: P cells, A boxes of a cell, G ground-truth boxes, K ignored boxes.
Boxes: xyxy, pixels of the network input.
"""

from __future__ import annotations

from torch import Tensor

from detector.ops.iou import pairwise_iou
from detector.targets.assigners.assignment import Assignment
from detector.targets.assigners.max_iou import MaxIoUAssigner


class ApproxMaxIoUAssigner(MaxIoUAssigner):
    """The rules of ``MaxIoUAssigner`` on the largest overlap of a cell's boxes.

    Source: Wang et al., CVPR 2019, arXiv:1901.03278; checked against mmdet 2.28.2
        core/bbox/assigners/approx_max_iou_assigner.py.
    """

    def assign_cells(
        self, approxs: Tensor, squares: Tensor, gt_boxes: Tensor, ignore_boxes: Tensor | None = None
    ) -> Assignment:
        """One decision per cell.

        Args:
            approxs: (P, A, 4) boxes that decide the overlap.
            squares: (P, 4) the cells' own boxes, which may lie in ignored ones.
            gt_boxes: (G, 4); none gives background only.
            ignore_boxes: (K, 4).
        """
        num_cells, num_boxes = approxs.shape[:2]
        overlaps = pairwise_iou(gt_boxes, approxs.reshape(-1, 4))
        overlaps = overlaps.reshape(len(gt_boxes), num_cells, num_boxes).amax(dim=2)
        overlaps[:, self.ignored(squares, ignore_boxes)] = -1
        return self.by_overlaps(overlaps)
