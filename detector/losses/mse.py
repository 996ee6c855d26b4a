"""Squared differences.

Shapes: N samples of any shape.
"""

from __future__ import annotations

from torch import Tensor, nn

from detector.losses.reduction import reduce


class MSELoss(nn.Module):
    """Squared difference. Source: checked against mmdet 2.28.2 models/losses/mse_loss.py."""

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
    ) -> Tensor:
        """Loss of (N, ...) predictions against targets of the same shape; ``weight`` broadcasts to them."""
        return self.loss_weight * reduce(
            (pred - target) ** 2, weight, reduction=self.reduction, avg_factor=avg_factor
        )
