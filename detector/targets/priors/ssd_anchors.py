"""Default boxes of SSD: per level one size, one between it and the next, and further aspect ratios.

Shapes: L levels, A anchors per cell.
Boxes: xyxy, pixels of the padded network input, no +1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from detector.errors import ConfigError
from detector.targets.priors.anchors import AnchorGenerator

# input size -> first share of the range -> smallest and largest side of the finest level, in percent
_FINEST: dict[int, dict[float, tuple[int, int]]] = {
    300: {0.15: (7, 15), 0.2: (10, 20)},
    512: {0.1: (4, 10), 0.15: (7, 15)},
}


def sizes_of_range(
    input_size: int, ratio_range: Sequence[float], num_levels: int
) -> tuple[list[float], list[float]]:
    """Smallest and largest side in pixels of L levels from a range of shares of the input.

    Raises:
        ConfigError: the finest level of this input size and range is not known.
    """
    finest = _FINEST.get(input_size, {}).get(ratio_range[0])
    if finest is None:
        known = ", ".join(f"{size} with {' or '.join(map(str, first))}" for size, first in _FINEST.items())
        raise ConfigError(
            f"SSDAnchorGenerator: found input_size={input_size} with a range from {ratio_range[0]}; "
            "expected one of "
            f"{known}, or min_sizes and max_sizes."
        )
    low, high = (int(share * 100) for share in ratio_range)
    step = int(math.floor(high - low) / (num_levels - 2))
    starts = [finest[0], *range(low, high + 1, step)]
    ends = [finest[1], *(start + step for start in starts[1:])]
    return [int(input_size * s / 100) for s in starts], [int(input_size * e / 100) for e in ends]


class SSDAnchorGenerator(AnchorGenerator):
    """Default boxes centred in every cell.

    Source: Liu et al., ECCV 2016, arXiv:1512.02325; checked against mmdet 2.28.2
        core/anchor/anchor_generator.py.
    """

    def __init__(
        self,
        *,
        strides: Sequence[int | Sequence[int]],
        ratios: Sequence[Sequence[float]],
        min_sizes: Sequence[float] | None = None,
        max_sizes: Sequence[float] | None = None,
        basesize_ratio_range: Sequence[float] = (0.15, 0.9),
        input_size: int = 300,
        scale_major: bool = True,
    ) -> None:
        """Describe the anchors.

        Args:
            strides: pixels between cells of each level, one number or (x, y).
            ratios: per level the aspect ratios beside 1; each stands for itself and its inverse.
            min_sizes: side in pixels of each level's first anchor.
            max_sizes: the second square anchor has the geometric mean of both sizes.
            basesize_ratio_range: share of the input of the second level's and the last level's anchors, where
                sizes are not given.
            input_size: side of the network input in pixels, 300 or 512, where sizes are not given.
            scale_major: order in which the anchors of a cell are made before the reference picks them.

        Raises:
            ConfigError: the levels of the settings differ in number, or only one of the sizes is given.
        """
        if (min_sizes is None) != (max_sizes is None):
            raise ConfigError(
                "SSDAnchorGenerator: found only one of min_sizes and max_sizes; give both or neither."
            )
        if min_sizes is None or max_sizes is None:
            min_sizes, max_sizes = sizes_of_range(input_size, basesize_ratio_range, len(strides))
        if not len(min_sizes) == len(max_sizes) == len(strides) == len(ratios):
            raise ConfigError(
                f"SSDAnchorGenerator: found {len(strides)} strides, {len(ratios)} ratios, "
                f"{len(min_sizes)} min_sizes "
                f"and {len(max_sizes)} max_sizes; expected as many as there are levels."
            )
        super().__init__(strides=strides, ratios=(1.0,), scales=(1.0,), scale_major=scale_major)
        self.base_sizes = [float(size) for size in min_sizes]
        self.centers = [(x / 2, y / 2) for x, y in self.strides]
        self.base_anchors = []
        for level, extra in enumerate(ratios):
            self.ratios = torch.tensor([1.0, *(r for ratio in extra for r in (1 / ratio, ratio))])
            self.scales = torch.tensor((1.0, math.sqrt(max_sizes[level] / min_sizes[level])))
            anchors = self._base_anchors(level)
            # the square of the mean size comes second; other ratios keep the first size only
            order = [0, len(self.ratios), *range(1, len(self.ratios))]
            self.base_anchors.append(anchors[order])
