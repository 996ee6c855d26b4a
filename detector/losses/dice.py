"""Dice loss of soft masks.

Shapes: N masks of any equal shape.
Paper: Milletari et al., "V-Net", 3DV 2016, arXiv:1606.04797; checked against mmdet 2.28.2
models/losses/dice_loss.py.
"""

from __future__ import annotations

from torch import Tensor, nn

from detector.errors import ConfigError
from detector.losses.reduction import reduce


class DiceLoss(nn.Module):
    """One minus twice the overlap over the summed sizes."""

    def __init__(
        self,
        *,
        use_sigmoid: bool = True,
        activate: bool = True,
        reduction: str = "mean",
        naive_dice: bool = False,
        loss_weight: float = 1.0,
        eps: float = 1e-3,
    ) -> None:
        """Set the form.

        Args:
            use_sigmoid: must be True where ``activate`` is.
            activate: predictions are logits; False takes probabilities.
            reduction: mean, sum or none.
            naive_dice: sizes are sums instead of sums of squares, and the share is smoothed on both sides.
            loss_weight: factor of the loss.
            eps: smoothing.

        Raises:
            ConfigError: logits without the sigmoid.
        """
        super().__init__()
        if activate and not use_sigmoid:
            raise ConfigError("DiceLoss: found activate=True with use_sigmoid=False; set use_sigmoid=True.")
        self.activate, self.reduction, self.naive_dice = activate, reduction, naive_dice
        self.use_sigmoid, self.loss_weight, self.eps = use_sigmoid, loss_weight, eps

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """(N, ...) predictions against (N, ...) targets in [0, 1]; ``weight`` (N,) or None."""
        own = (pred.sigmoid() if self.activate else pred).flatten(1)
        wanted = target.flatten(1).to(own)
        overlap = 2 * (own * wanted).sum(dim=1)
        if self.naive_dice:
            share = (overlap + self.eps) / (own.sum(dim=1) + wanted.sum(dim=1) + self.eps)
        else:
            share = overlap / ((own * own).sum(dim=1) + (wanted * wanted).sum(dim=1) + 2 * self.eps)
        return self.loss_weight * reduce(1 - share, weight, reduction=self.reduction, avg_factor=avg_factor)
