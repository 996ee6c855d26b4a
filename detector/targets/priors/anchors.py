"""Anchor boxes on every cell of every feature level.

Shapes: L levels, A anchors per cell, P anchors of one level (h * w * A), h x w cells.
Boxes: xyxy, pixels of the padded network input, no +1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detector.errors import ConfigError


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


class AnchorGenerator:
    """Anchors of several scales and ratios, centred on a grid; results are cached per map sizes and device.

    Source: checked against mmdet 2.28.2 core/anchor/anchor_generator.py.
    """

    def __init__(
        self,
        *,
        strides: Sequence[int | Sequence[int]],
        ratios: Sequence[float],
        scales: Sequence[float] | None = None,
        base_sizes: Sequence[float] | None = None,
        scale_major: bool = True,
        octave_base_scale: float | None = None,
        scales_per_octave: int | None = None,
        centers: Sequence[Sequence[float]] | None = None,
        center_offset: float = 0.0,
    ) -> None:
        """Describe the anchors.

        Args:
            strides: pixels between cells of each level, one number or (x, y).
            ratios: height over width.
            scales: multiples of the base size; or give ``octave_base_scale`` and ``scales_per_octave``.
            base_sizes: side in pixels per level; default the smaller stride.
            scale_major: order of the anchors of a cell: ratios outermost, scales inside.
            octave_base_scale: first scale of an octave.
            scales_per_octave: number of scales in an octave.
            centers: centre of the base anchor per level in pixels.
            center_offset: centre of the base anchor in units of its size.
        """
        if (scales is None) == (octave_base_scale is None or scales_per_octave is None):
            raise ConfigError(
                "AnchorGenerator: found both or neither of 'scales' and 'octave_base_scale' + "
                "'scales_per_octave'; expected exactly one of the two; remove one."
            )
        if scales is None:
            assert octave_base_scale is not None
            assert scales_per_octave is not None
            scales = [2 ** (i / scales_per_octave) * octave_base_scale for i in range(scales_per_octave)]
        self.strides = [_pair(s) for s in strides]
        self.base_sizes = [float(min(s)) for s in self.strides] if base_sizes is None else list(base_sizes)
        self.ratios, self.scales = (
            torch.tensor(tuple(ratios), dtype=torch.float32),
            torch.tensor(tuple(scales), dtype=torch.float32),
        )
        self.scale_major, self.center_offset, self.centers = scale_major, center_offset, centers
        self.base_anchors = [self._base_anchors(i) for i in range(len(self.strides))]
        self._cache: dict[tuple, list[Tensor]] = {}

    @property
    def num_base_priors(self) -> list[int]:
        """Anchors per cell of each level."""
        return [len(a) for a in self.base_anchors]

    @property
    def num_levels(self) -> int:
        """Number of feature levels."""
        return len(self.strides)

    def _base_anchors(self, level: int) -> Tensor:
        """Anchors (A, 4) around the first cell."""
        side = self.base_sizes[level]
        x, y = (self.center_offset * side,) * 2 if self.centers is None else self.centers[level]
        tall = self.ratios.sqrt()
        wide = 1 / tall
        if self.scale_major:
            ws, hs = ((side * r[:, None] * self.scales[None]).flatten() for r in (wide, tall))
        else:
            ws, hs = ((side * self.scales[:, None] * r[None]).flatten() for r in (wide, tall))
        return torch.stack((x - 0.5 * ws, y - 0.5 * hs, x + 0.5 * ws, y + 0.5 * hs), dim=-1)

    def grid_priors(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """Anchors of all cells: sizes (h, w) of L levels give L tensors (P, 4), row by row, cell by cell.

        The tensors are shared between calls; do not modify them.
        """
        key = (tuple(sizes), str(device))
        if key not in self._cache:
            if (
                len(self._cache) >= 64
            ):  # multi-scale training sees few distinct sizes; bound the memory all the same
                self._cache.clear()
            self._cache[key] = [self._level_priors(i, hw, device) for i, hw in enumerate(sizes)]
        return self._cache[key]

    def _level_priors(self, level: int, hw: tuple[int, int], device: torch.device) -> Tensor:
        stride_x, stride_y = self.strides[level]
        y, x = torch.meshgrid(
            torch.arange(hw[0], device=device) * stride_y,
            torch.arange(hw[1], device=device) * stride_x,
            indexing="ij",
        )
        shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
        return (shifts + self.base_anchors[level].to(device)).reshape(-1, 4)

    def valid_flags(
        self, sizes: Sequence[tuple[int, int]], pad_hw: tuple[int, int], device: torch.device
    ) -> list[Tensor]:
        """Which anchors start inside the image's own padding: L tensors (P,) bool.

        ``pad_hw`` is the size after the image's own padding; cells beyond it exist only because of the batch.
        """
        flags = []
        for (h, w), (stride_x, stride_y), count in zip(
            sizes, self.strides, self.num_base_priors, strict=True
        ):
            rows = torch.arange(h, device=device) < min(math.ceil(pad_hw[0] / stride_y), h)
            columns = torch.arange(w, device=device) < min(math.ceil(pad_hw[1] / stride_x), w)
            flags.append((rows[:, None] & columns[None]).reshape(-1, 1).expand(-1, count).reshape(-1))
        return flags
