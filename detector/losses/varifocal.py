"""Cross entropy on scores that say how well the box fits; only negatives are weighted down.

Shapes: N samples, C classes.
Paper: Zhang et al., CVPR 2021, arXiv:2008.13367; checked against mmdet 2.28.2
models/losses/varifocal_loss.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.losses.reduction import reduce


class VarifocalLoss(nn.Module):
    """Sigmoid varifocal loss."""

    def __init__(
        self,
        *,
        use_sigmoid: bool = True,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_weighted: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        """Set the shape of the loss.

        Args:
            use_sigmoid: True; there is no softmax form.
            alpha: weight of negatives.
            gamma: how fast easy negatives fade.
            iou_weighted: positives count by their target.
            reduction: mean, sum or none.
            loss_weight: factor of the loss.

        Raises:
            ConfigError: ``use_sigmoid`` is False.
        """
        super().__init__()
        if not use_sigmoid:
            raise ConfigError(
                "VarifocalLoss: found use_sigmoid=False; expected True, the only form. Change or remove it."
            )
        self.use_sigmoid, self.alpha, self.gamma = use_sigmoid, alpha, gamma
        self.iou_weighted, self.reduction, self.loss_weight = iou_weighted, reduction, loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of (N, C) logits against (N, C) qualities in [0, 1], 0 being negative.

        A scalar, or (N, C) for reduction none; ``weight`` is (N, C) or None.
        """
        target = target.to(pred)
        positive = target if self.iou_weighted else torch.ones_like(target)
        negative = self.alpha * (pred.sigmoid() - target).abs().pow(self.gamma)
        value = functional.binary_cross_entropy_with_logits(pred, target, reduction="none")
        value = value * torch.where(target > 0, positive, negative)
        return self.loss_weight * reduce(value, weight, reduction=self.reduction, avg_factor=avg_factor)
