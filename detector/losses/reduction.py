"""How element losses become one number; the same rule for every loss."""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float32).eps


def reduce(
    loss: Tensor, weight: Tensor | None, *, reduction: str, avg_factor: float | Tensor | None
) -> Tensor:
    """Weight and reduce element losses.

    Args:
        loss: element losses of any shape.
        weight: broadcastable to ``loss``, or None.
        reduction: mean, sum or none.
        avg_factor: what a mean divides by instead of the number of elements (the reference adds float32 eps
            to it).

    Returns:
        a scalar, or ``loss`` weighted for ``none``.
    """
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if avg_factor is None else loss.sum() / (avg_factor + _EPS)
