"""Cross entropy per class that counts easy samples less.

Shapes: N samples, C classes.
Paper: Lin et al., ICCV 2017, arXiv:1708.02002; checked against mmdet 2.28.2 models/losses/focal_loss.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.losses.cross_entropy import binary_targets
from detector.losses.reduction import reduce


def focal_terms(
    pred: Tensor, target: Tensor, *, gamma: float, alpha: float, activated: bool = False
) -> Tensor:
    """Element losses (N, C) of logits (probabilities with ``activated``) against (N, C) targets in [0, 1]."""
    probability = pred if activated else pred.sigmoid()
    miss = (1 - probability) * target + probability * (1 - target)
    balance = alpha * target + (1 - alpha) * (1 - target)
    entropy = (
        functional.binary_cross_entropy(pred, target, reduction="none")
        if activated
        else functional.binary_cross_entropy_with_logits(pred, target, reduction="none")
    )
    return entropy * (balance * miss.pow(gamma))


def per_class(weight: Tensor, shape: torch.Size) -> Tensor:
    """Weights (N,), (N, C) or flattened (N * C,) in a form that multiplies (N, C) element losses."""
    if weight.shape == shape:
        return weight
    return weight.reshape(-1, 1) if weight.shape[0] == shape[0] else weight.reshape(shape)


class FocalLoss(nn.Module):
    """Sigmoid focal loss."""

    def __init__(
        self,
        *,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        """Set the shape of the loss.

        Args:
            use_sigmoid: True; there is no softmax form.
            gamma: how fast easy samples fade.
            alpha: weight of positives, 1 - alpha of negatives.
            reduction: mean, sum or none.
            loss_weight: factor of the loss.
            activated: predictions are probabilities, not logits.

        Raises:
            ConfigError: ``use_sigmoid`` is False.
        """
        super().__init__()
        if not use_sigmoid:
            raise ConfigError(
                "FocalLoss: found use_sigmoid=False; expected True, the only form. Change or remove it."
            )
        self.use_sigmoid, self.gamma, self.alpha, self.reduction = use_sigmoid, gamma, alpha, reduction
        self.loss_weight, self.activated = loss_weight, activated

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
        reduction: str | None = None,
    ) -> Tensor:
        """Loss of (N, C) predictions, a scalar (or (N, C) for reduction none).

        Args:
            pred: (N, C).
            target: (N,) int64 labels, those outside [0, C) being background; or (N, C) in [0, 1].
            weight: (N,), (N, C) or (N * C,).
            avg_factor: what the mean divides by.
            reduction: takes the place of the configured one.
        """
        wanted = binary_targets(target, pred.shape[1]) if target.dim() == 1 else target
        value = focal_terms(
            pred, wanted.to(pred), gamma=self.gamma, alpha=self.alpha, activated=self.activated
        )
        weight = None if weight is None else per_class(weight, value.shape)
        return self.loss_weight * reduce(
            value, weight, reduction=reduction or self.reduction, avg_factor=avg_factor
        )
