"""Stochastic depth: whole residual branches are left out at random in training.

Shapes: B images, any further dimensions.
Paper: Huang et al., ECCV 2016, arXiv:1603.09382; checked against mmcv 1.7 cnn/bricks/drop.py.
"""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero a branch for single images with probability ``p``; those kept are scaled by 1 / (1 - p)."""

    def __init__(self, p: float = 0.0) -> None:
        """``p`` from 0 to below 1."""
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same shape; the input itself in eval mode."""
        if self.p == 0.0 or not self.training:
            return x
        kept = x.new_empty((len(x),) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * kept / (1 - self.p)


def depth_rates(last: float, blocks: int) -> list[float]:
    """Rates that grow linearly from 0 at the first of ``blocks`` blocks to ``last`` at the last one."""
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]
