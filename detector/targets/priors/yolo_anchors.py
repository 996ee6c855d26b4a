"""Anchors given as widths and heights, around the middle of every cell.

Shapes: L levels, A anchors per cell, P anchors of one level (h * w * A), G boxes of one image.
Boxes: xyxy, pixels of the padded network input, no +1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.targets.priors.anchors import AnchorGenerator


class YOLOAnchorGenerator(AnchorGenerator):
    """Anchors of listed sizes.

    Source: Redmon and Farhadi, 2018, arXiv:1804.02767; checked against mmdet 2.28.2
        core/anchor/anchor_generator.py.
    """

    def __init__(
        self, *, strides: Sequence[int | Sequence[int]], base_sizes: Sequence[Sequence[Sequence[float]]]
    ) -> None:
        """Describe the anchors.

        Args:
            strides: pixels between cells of each level, one number or (x, y).
            base_sizes: (width, height) in pixels of every anchor of each level.

        Raises:
            ConfigError: the levels differ in number, or in their number of anchors.
        """
        if len(strides) != len(base_sizes) or len({len(sizes) for sizes in base_sizes}) != 1:
            raise ConfigError(
                f"YOLOAnchorGenerator: found {len(strides)} strides and {list(map(len, base_sizes))} anchors "
                "per level; expected sizes for every stride, equally many."
            )
        super().__init__(strides=strides, ratios=(1.0,), scales=(1.0,))
        self.base_anchors = []
        for (stride_x, stride_y), sizes in zip(self.strides, base_sizes, strict=True):
            half = torch.tensor([list(size) for size in sizes], dtype=torch.float32) * 0.5
            centre = torch.tensor((stride_x / 2, stride_y / 2))
            self.base_anchors.append(torch.cat((centre - half, centre + half), dim=1))

    def responsible_flags(self, sizes: Sequence[tuple[int, int]], gt_boxes: Tensor) -> list[Tensor]:
        """Which anchors sit in a cell that holds the centre of a box.

        Args:
            sizes: (h, w) of the L feature maps.
            gt_boxes: (G, 4); a centre on or beyond the last cell's border counts for that cell.

        Returns:
            L tensors (P,) bool, all False without boxes.
        """
        centres = (gt_boxes[:, :2] + gt_boxes[:, 2:]) * 0.5
        flags = []
        for (h, w), (stride_x, stride_y), count in zip(
            sizes, self.strides, self.num_base_priors, strict=True
        ):
            columns = torch.floor(centres[:, 0] / stride_x).long().clamp(min=0, max=w - 1)
            rows = torch.floor(centres[:, 1] / stride_y).long().clamp(min=0, max=h - 1)
            cells = torch.zeros(h * w, dtype=torch.bool, device=gt_boxes.device)
            cells[rows * w + columns] = True
            flags.append(cells.repeat_interleave(count))
        return flags
