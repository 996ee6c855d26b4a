"""One learned factor.

The attribute name ``scale`` is the checkpoint format (mmcv 1.7, cnn/bricks/scale.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiply by a learned number."""

    def __init__(self, scale: float = 1.0) -> None:
        """``scale`` is the initial value."""
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        return x * self.scale
