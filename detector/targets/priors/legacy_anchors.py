"""The anchors of MMDetection 1.x: whole pixels, the last one included.

Shapes: L levels, A anchors per cell.
Boxes: xyxy, pixels of the padded network input, width = x2 - x1 + 1.
"""

from __future__ import annotations

from torch import Tensor

from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.priors.ssd_anchors import SSDAnchorGenerator


def whole_pixels(anchors: Tensor, centre: tuple[float, float]) -> Tensor:
    """Anchors (A, 4) of the same sizes about ``centre``, a pixel shorter and rounded."""
    half = (anchors[:, 2:] - anchors[:, :2] - 1) * 0.5
    middle = anchors.new_tensor((*centre, *centre))
    half_sides = half.repeat(1, 2) * anchors.new_tensor((-1, -1, 1, 1))
    return (middle + half_sides).round()


class LegacyAnchorGenerator(AnchorGenerator):
    """``AnchorGenerator`` for models trained with MMDetection 1.x; they use ``center_offset=0.5``.

    Source: checked against mmdet 2.28.2 core/anchor/anchor_generator.py.
    """

    def _base_anchors(self, level: int) -> Tensor:
        side = self.center_offset * (self.base_sizes[level] - 1)
        x, y = (side, side) if self.centers is None else self.centers[level]
        return whole_pixels(super()._base_anchors(level), (x, y))


class LegacySSDAnchorGenerator(SSDAnchorGenerator):
    """``SSDAnchorGenerator`` for models trained with MMDetection 1.x.

    Source: checked against mmdet 2.28.2 core/anchor/anchor_generator.py.
    """

    def _base_anchors(self, level: int) -> Tensor:
        x, y = self.strides[level]
        return whole_pixels(super()._base_anchors(level), ((x - 1) / 2, (y - 1) / 2))
