"""Prime samples: positives count by how well they fit among their rivals, and boxes by their class score.

Shapes: S positives of a batch.
Paper: Cao et al., "Prime Sample Attention in Object Detection", CVPR 2020, arXiv:1904.04821; checked against
mmdet 2.28.2 models/losses/pisa_loss.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _ranks(values: Tensor) -> Tensor:
    """Place (S,) of every value in descending order, 0 being the largest."""
    order = values.argsort(descending=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks


@torch.no_grad()
def prime_weights(
    weights: Tensor,
    ious: Tensor,
    labels: Tensor,
    objects: Tensor,
    class_losses: Tensor,
    *,
    k: float,
    bias: float,
) -> Tensor:
    """Class weights of positives by their rank, of the same total loss (ISR-P).

    Positives of one class are ordered by their rank within their object first, then by IoU.

    Args:
        weights: (S,) weights before.
        ious: (S,) of the predicted box with its object, in [0, 1].
        labels: (S,) int64.
        objects: (S,) int64, a number of its own for each object of the batch.
        class_losses: (S,) or (S, C) unweighted class loss of each positive.
        k: power of the linear weights.
        bias: least weight before the power.

    Returns:
        (S,); empty for none.
    """
    if not len(weights):
        return weights
    most = int(labels.bincount().max())
    keys = ious.clone()
    for one in objects.unique():
        rows = objects == one
        keys[rows] += most - _ranks(ious[rows]).to(ious)
    shares = torch.empty_like(weights)
    for label in labels.unique():
        rows = labels == label
        shares[rows] = (most - _ranks(keys[rows]).to(weights)) / most
    prime = (bias + weights * shares * (1 - bias)) ** k
    losses = class_losses.reshape(len(weights), -1).sum(dim=1)
    return prime * ((losses * weights).sum() / (losses * prime).sum())


def carl_loss(
    class_scores: Tensor, box_losses: Tensor, *, k: float, bias: float, avg_factor: float
) -> Tensor:
    """Box loss of positives weighted by their class scores, through which it also has a gradient (CARL).

    Args:
        class_scores: (S,) probability of each positive's own class.
        box_losses: (S, 4) unreduced box loss.
        k: power of the weights.
        bias: least weight before the power.
        avg_factor: what the sum is divided by.

    Returns:
        a scalar, 0 for no positives.
    """
    weights = (bias + (1 - bias) * class_scores) ** k
    weights = weights * (len(weights) / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny))
    return (box_losses * weights[:, None]).sum() / avg_factor
