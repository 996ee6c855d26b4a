"""Losses that spread the weight evenly over gradient lengths.

Shapes: N samples, C classes, M bins of the gradient length.
Paper: Li et al., AAAI 2019, arXiv:1811.05181; checked against mmdet 2.28.2 models/losses/ghm_loss.py. The
buffers ``edges`` and ``acc_sum`` are part of the checkpoint format.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.losses.cross_entropy import binary_targets
from detector.losses.reduction import reduce


class _Harmonised(nn.Module):
    """Bins of the gradient length and their moving counts."""

    edges: Tensor
    acc_sum: Tensor

    def __init__(
        self, *, bins: int, momentum: float, loss_weight: float, reduction: str, last_edge: float
    ) -> None:
        """``momentum`` 0 counts every call alone; ``last_edge`` is what the last bin ends at."""
        super().__init__()
        self.bins, self.momentum = bins, momentum
        self.loss_weight, self.reduction = loss_weight, reduction
        edges = torch.arange(bins + 1).float() / bins
        edges[-1] = last_edge
        self.register_buffer("edges", edges)
        if momentum > 0:
            self.register_buffer("acc_sum", torch.zeros(bins))

    @torch.no_grad()
    def harmony(self, length: Tensor, valid: Tensor, total: Tensor) -> Tensor:
        """Weights of samples, inversely to how many share their bin; moves the counts.

        Args:
            length: gradient lengths in [0, 1], any shape.
            valid: which count, the same shape.
            total: how many count, a scalar.
        """
        place = torch.bucketize(length, self.edges.to(length), right=True) - 1
        counts = torch.bincount(place[valid], minlength=self.bins)[: self.bins].to(length)
        filled = counts > 0
        if self.momentum > 0:
            moved = self.momentum * self.acc_sum + (1 - self.momentum) * counts.to(self.acc_sum)
            self.acc_sum.copy_(torch.where(filled, moved, self.acc_sum))
            counts = self.acc_sum.to(length)
        per_bin = torch.where(filled, total / counts, torch.zeros_like(counts)) / filled.sum().clamp(min=1)
        return per_bin[place.clamp(max=self.bins - 1)] * valid


class GHMC(_Harmonised):
    """Binary cross entropy per class."""

    def __init__(
        self,
        *,
        bins: int = 10,
        momentum: float = 0,
        use_sigmoid: bool = True,
        loss_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        """Set the bins.

        Args:
            bins: bins of the gradient length.
            momentum: share of the old counts.
            use_sigmoid: True; there is no softmax form.
            loss_weight: factor of the loss.
            reduction: mean, sum or none.

        Raises:
            ConfigError: ``use_sigmoid`` is False.
        """
        if not use_sigmoid:
            raise ConfigError(
                "GHMC: found use_sigmoid=False; expected True, the only form. Change or remove it."
            )
        super().__init__(
            bins=bins, momentum=momentum, loss_weight=loss_weight, reduction=reduction, last_edge=1 + 1e-6
        )
        self.use_sigmoid = use_sigmoid

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of (N, C) logits, a scalar.

        Args:
            pred: (N, C).
            target: (N,) int64 labels, those outside [0, C) being background; or (N, C) of 0 and 1.
            weight: (N,) or (N, C); only those above 0 count.
            avg_factor: not used; the mean is over what counts.
        """
        if target.dim() == 1:
            target, weight = binary_targets(target, pred.shape[1]), weight[:, None].expand_as(pred)
        target, valid = target.to(pred), weight > 0
        total = valid.sum().to(pred).clamp(min=1)
        weights = self.harmony((pred.detach().sigmoid() - target).abs(), valid, total)
        value = functional.binary_cross_entropy_with_logits(pred, target, reduction="none")
        return self.loss_weight * reduce(value, weights, reduction=self.reduction, avg_factor=total)


class GHMR(_Harmonised):
    """Absolute difference, smooth around 0."""

    def __init__(
        self,
        *,
        mu: float = 0.02,
        bins: int = 10,
        momentum: float = 0,
        loss_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        """Set the bins.

        Args:
            mu: width of the smooth part, in units of the prediction.
            bins: bins of the gradient length.
            momentum: share of the old counts.
            loss_weight: factor of the loss.
            reduction: mean, sum or none.
        """
        super().__init__(
            bins=bins, momentum=momentum, loss_weight=loss_weight, reduction=reduction, last_edge=1e3
        )
        self.mu = mu

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of (N, 4) against (N, 4), a scalar.

        ``weight`` (N, 4): those above 0 count; ``avg_factor`` is not used.
        """
        diff = pred - target
        root = torch.sqrt(diff * diff + self.mu * self.mu)
        total = weight.sum().clamp(min=1)
        weights = self.harmony((diff / root).detach().abs(), weight > 0, total)
        return self.loss_weight * reduce(root - self.mu, weights, reduction=self.reduction, avg_factor=total)
