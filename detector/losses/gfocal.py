"""Generalised focal losses: one score for class and quality, and distances as distributions.

Shapes: N samples, C classes, n + 1 bins of a distance.
Paper: Li et al., NeurIPS 2020, arXiv:2006.04388; checked against mmdet 2.28.2 models/losses/gfocal_loss.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.losses.reduction import reduce


class QualityFocalLoss(nn.Module):
    """Cross entropy towards a quality in [0, 1], weighted by the distance to it."""

    def __init__(
        self,
        *,
        use_sigmoid: bool = True,
        beta: float = 2.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        """Set the shape of the loss.

        Args:
            use_sigmoid: True; there is no softmax form.
            beta: exponent of the distance.
            reduction: mean, sum or none.
            loss_weight: factor of the loss.
            activated: predictions are probabilities, not logits.

        Raises:
            ConfigError: ``use_sigmoid`` is False.
        """
        super().__init__()
        if not use_sigmoid:
            raise ConfigError(
                "QualityFocalLoss: found use_sigmoid=False; expected True, the only form. Remove it."
            )
        self.use_sigmoid, self.beta, self.reduction = use_sigmoid, beta, reduction
        self.loss_weight, self.activated = loss_weight, activated

    def forward(
        self,
        pred: Tensor,
        target: tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of (N, C) predictions, a scalar (or (N,) for reduction none).

        Args:
            pred: (N, C).
            target: (N,) int64 labels, those outside [0, C) being background, and (N,) qualities.
            weight: (N,).
            avg_factor: what the mean divides by.
        """
        labels, quality = target
        rows = torch.nonzero((labels >= 0) & (labels < pred.shape[1])).flatten()
        wanted = torch.zeros_like(pred)
        wanted[rows, labels[rows]] = quality[rows].to(pred)
        if self.activated:
            probability, entropy = pred, functional.binary_cross_entropy(pred, wanted, reduction="none")
        else:
            probability = pred.sigmoid()
            entropy = functional.binary_cross_entropy_with_logits(pred, wanted, reduction="none")
        value = (entropy * (wanted - probability).abs().pow(self.beta)).sum(dim=1)
        return self.loss_weight * reduce(value, weight, reduction=self.reduction, avg_factor=avg_factor)


class DistributionFocalLoss(nn.Module):
    """Cross entropy of the two bins around a distance."""

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
        """Loss of (N, n + 1) logits against (N,) distances in [0, n), in bins; ``weight`` (N,) or None."""
        low = target.long()
        share = target - low
        value = functional.cross_entropy(pred, low, reduction="none") * (1 - share)
        value = value + functional.cross_entropy(pred, low + 1, reduction="none") * share
        return self.loss_weight * reduce(value, weight, reduction=self.reduction, avg_factor=avg_factor)
