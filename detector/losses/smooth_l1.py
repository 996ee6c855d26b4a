"""Absolute and smoothed absolute differences.

Shapes: N samples, D values each (4 for boxes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.losses.reduction import reduce


class L1Loss(nn.Module):
    """Absolute difference. Source: checked against mmdet 2.28.2 models/losses/smooth_l1_loss.py."""

    def __init__(self, *, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        """``reduction``: mean, sum or none."""
        super().__init__()
        self.reduction, self.loss_weight = reduction, loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
        reduction: str | None = None,
    ) -> Tensor:
        """Loss of (N, D) predictions against (N, D) targets; ``weight`` (N, D) or None.

        ``reduction`` takes the place of the configured one.
        """
        return self.loss_weight * reduce(
            (pred - target).abs(), weight, reduction=reduction or self.reduction, avg_factor=avg_factor
        )


class SmoothL1Loss(nn.Module):
    """Absolute difference, quadratic below ``beta``. Source: Girshick, ICCV 2015, arXiv:1504.08083."""

    def __init__(self, *, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        """``beta`` is where the two parts meet, in units of the prediction."""
        super().__init__()
        self.beta, self.reduction, self.loss_weight = beta, reduction, loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
        reduction: str | None = None,
    ) -> Tensor:
        """Loss of (N, D) predictions against (N, D) targets; ``weight`` (N, D) or None.

        ``reduction`` takes the place of the configured one.
        """
        diff = (pred - target).abs()
        value = torch.where(diff < self.beta, 0.5 * diff * diff / self.beta, diff - 0.5 * self.beta)
        return self.loss_weight * reduce(
            value, weight, reduction=reduction or self.reduction, avg_factor=avg_factor
        )
