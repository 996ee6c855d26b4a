"""One point on every cell of every feature level.

Shapes: L levels, P points of one level (h * w), h x w cells.
Points: (x, y) in pixels of the padded network input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class MlvlPointGenerator:
    """Points on a regular grid.

    Source: checked against mmdet 2.28.2 core/anchor/point_generator.py.
    """

    def __init__(self, *, strides: Sequence[int | Sequence[int]], offset: float = 0.5) -> None:
        """Describe the grid.

        Args:
            strides: pixels between points of each level, one number or (x, y).
            offset: place of the point in its cell, in cells; 0.5 is the centre.
        """
        self.strides, self.offset = [_pair(s) for s in strides], offset

    @property
    def num_levels(self) -> int:
        """Number of feature levels."""
        return len(self.strides)

    @property
    def num_base_priors(self) -> list[int]:
        """Points per cell of each level, always one."""
        return [1] * len(self.strides)

    def grid_priors(
        self, sizes: Sequence[tuple[int, int]], device: torch.device, *, with_stride: bool = False
    ) -> list[Tensor]:
        """Points of all cells, row by row.

        Args:
            sizes: (h, w) of L levels.
            device: where the points go.
            with_stride: append the strides (x, y) to every point.

        Returns:
            L tensors (P, 2), or (P, 4) with strides.
        """
        return [
            self._level(level, hw, device, with_stride)
            for level, hw in zip(range(self.num_levels), sizes, strict=True)
        ]

    def _level(self, level: int, hw: tuple[int, int], device: torch.device, with_stride: bool) -> Tensor:
        stride_x, stride_y = self.strides[level]
        y, x = torch.meshgrid(
            (torch.arange(hw[0], device=device, dtype=torch.float32) + self.offset) * stride_y,
            (torch.arange(hw[1], device=device, dtype=torch.float32) + self.offset) * stride_x,
            indexing="ij",
        )
        points = torch.stack((x, y), dim=-1).reshape(-1, 2)
        if not with_stride:
            return points
        return torch.cat((points, points.new_tensor((stride_x, stride_y)).expand_as(points)), dim=1)

    def valid_flags(
        self, sizes: Sequence[tuple[int, int]], pad_hw: tuple[int, int], device: torch.device
    ) -> list[Tensor]:
        """Which cells start inside the image's own padding: L tensors (P,) bool.

        ``pad_hw`` is the size after the image's own padding; cells beyond it exist only because of the batch.
        """
        flags = []
        for (h, w), (stride_x, stride_y) in zip(sizes, self.strides, strict=True):
            rows = torch.arange(h, device=device) < math.ceil(pad_hw[0] / stride_y)
            columns = torch.arange(w, device=device) < math.ceil(pad_hw[1] / stride_x)
            flags.append((rows[:, None] & columns[None]).flatten())
        return flags
