"""Balanced L1: smooth near zero like a logarithm, so that easy boxes keep some gradient.

Shapes: N samples, D values each (4 for boxes).
Paper: Pang et al., CVPR 2019, arXiv:1904.02701; checked against mmdet 2.28.2 losses/balanced_l1_loss.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detector.losses.reduction import reduce


class BalancedL1Loss(nn.Module):
    """A logarithmic curve below ``beta`` and a straight line of slope ``gamma`` above it."""

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        gamma: float = 1.5,
        beta: float = 1.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        """Describe the curve.

        Args:
            alpha: the smaller, the larger the gradient of small differences.
            gamma: slope of the straight part.
            beta: where the parts meet, in units of the prediction.
            reduction: mean, sum or none.
            loss_weight: factor of the result.
        """
        super().__init__()
        self.alpha, self.gamma, self.beta = alpha, gamma, beta
        self.reduction, self.loss_weight = reduction, loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of (N, D) predictions against (N, D) targets; ``weight`` (N, D) or None; 0 when N is 0."""
        if pred.numel() == 0 and self.reduction == "mean":
            return pred.sum()
        steepness = math.exp(self.gamma / self.alpha) - 1
        diff = (pred - target).abs()
        curve = self.alpha / steepness * (steepness * diff + 1) * torch.log(steepness * diff / self.beta + 1)
        line = self.gamma * diff + self.gamma / steepness - self.alpha * self.beta
        value = torch.where(diff < self.beta, curve - self.alpha * diff, line)
        return self.loss_weight * reduce(value, weight, reduction=self.reduction, avg_factor=avg_factor)
