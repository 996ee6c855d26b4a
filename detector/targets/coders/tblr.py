"""Boxes as distances from the centre of a prior to the four sides.

Shapes: N boxes.
Boxes: xyxy, pixels, no +1. Distances: top, bottom in prior heights, left, right in prior widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class TBLRBBoxCoder:
    """Between boxes and distances.

    Source: Zhu et al., CVPR 2019, arXiv:1903.00621; checked against mmdet 2.28.2
        core/bbox/coder/tblr_bbox_coder.py.
    """

    def __init__(self, *, normalizer: float | Sequence[float] = 4.0, clip_border: bool = True) -> None:
        """``normalizer`` divides the distances, one number or one per side.

        ``clip_border`` allows ``decode`` to cut boxes at the image.
        """
        one = isinstance(normalizer, (int, float))
        self.normalizer = (float(normalizer),) * 4 if one else tuple(normalizer)  # type: ignore[arg-type]
        self.clip_border = clip_border

    def _unit(self, priors: Tensor) -> Tensor:
        """(N, 4) pixels that a distance of one stands for."""
        width, height = (priors[:, 2:] - priors[:, :2]).unbind(dim=1)
        return torch.stack((height, height, width, width), dim=1) * priors.new_tensor(self.normalizer)

    def encode(self, priors: Tensor, gt_boxes: Tensor) -> Tensor:
        """Distances (N, 4) from the centres of (N, 4) priors to the sides of (N, 4) boxes."""
        x, y = ((priors[:, :2] + priors[:, 2:]) / 2).unbind(dim=1)
        x1, y1, x2, y2 = gt_boxes.unbind(dim=1)
        return torch.stack((y - y1, y2 - y, x - x1, x2 - x), dim=1) / self._unit(priors)

    def decode(self, priors: Tensor, distances: Tensor, *, max_hw: tuple[int, int] | None = None) -> Tensor:
        """Boxes (N, 4) of (N, 4) priors and (N, 4) distances.

        ``max_hw`` (height, width) is what to clip to, when ``clip_border`` is on; None does not clip.
        """
        x, y = ((priors[:, :2] + priors[:, 2:]) / 2).unbind(dim=1)
        top, bottom, left, right = (distances * self._unit(priors)).unbind(dim=1)
        boxes = torch.stack((x - left, y - top, x + right, y + bottom), dim=1)
        if not self.clip_border or max_hw is None:
            return boxes
        height, width = max_hw
        return torch.minimum(boxes.clamp(min=0), boxes.new_tensor((width, height, width, height)))
