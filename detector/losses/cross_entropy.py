"""Cross entropy: softmax over classes, sigmoid per class, or sigmoid of one mask channel.

Shapes: N samples, C classes, K masks of h x w.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.losses.reduction import reduce


def binary_targets(labels: Tensor, num_channels: int) -> Tensor:
    """One-hot rows (N, C) of (N,) labels; labels outside [0, C) (background, ignore) give zero rows."""
    return (labels[:, None] == torch.arange(num_channels, device=labels.device)).float()


class CrossEntropyLoss(nn.Module):
    """Cross entropy on logits.

    Source: checked against mmdet 2.28.2 models/losses/cross_entropy_loss.py.
    """

    def __init__(
        self,
        *,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: str = "mean",
        class_weight: Sequence[float] | None = None,
        ignore_index: int | None = None,
        loss_weight: float = 1.0,
        avg_non_ignore: bool = False,
    ) -> None:
        """``use_mask`` selects the mask channel of each sample's label.

        ``class_weight`` holds one factor per channel.
        """
        super().__init__()
        self.use_sigmoid, self.use_mask, self.reduction = use_sigmoid, use_mask, reduction
        self.class_weight = None if class_weight is None else torch.tensor(tuple(class_weight))
        self.ignore_index = -100 if ignore_index is None else ignore_index
        self.loss_weight, self.avg_non_ignore = loss_weight, avg_non_ignore

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of logits against labels, a scalar (or (N, C) / (N,) for reduction none).

        Args:
            pred: (N, C) logits.
            target: (N,) int64 labels, or (N, C) probabilities with ``use_sigmoid``.
            weight: (N,) per sample, or (N, C).
            avg_factor: what the mean divides by.
        """
        class_weight = None if self.class_weight is None else self.class_weight.to(pred)
        valid = target != self.ignore_index
        if avg_factor is None and self.avg_non_ignore and self.reduction == "mean":
            avg_factor = valid.sum()
        if self.use_sigmoid:
            if pred.dim() != target.dim():
                one_hot = binary_targets(target, pred.shape[1])
                keep = (valid & (target >= 0)).to(pred)
                weight = keep[:, None] if weight is None else (weight * keep)[:, None]
                target = one_hot
            elementwise = functional.binary_cross_entropy_with_logits(
                pred, target.to(pred), pos_weight=class_weight, reduction="none"
            )
        else:
            elementwise = functional.cross_entropy(
                pred, target, weight=class_weight, reduction="none", ignore_index=self.ignore_index
            )
        weight = None if weight is None else weight.to(pred)
        return self.loss_weight * reduce(elementwise, weight, reduction=self.reduction, avg_factor=avg_factor)

    def mask_loss(self, pred: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross entropy of each sample's own channel.

        Args:
            pred: (K, C, h, w) logits.
            target: (K, h, w) in {0, 1}.
            labels: (K,) int64 channel of each sample.
        """
        own = pred[torch.arange(len(pred), device=pred.device), labels]
        return self.loss_weight * functional.binary_cross_entropy_with_logits(own, target.to(own))


def accuracy(pred: Tensor, labels: Tensor) -> Tensor:
    """Share of rows whose highest score is their label, in percent.

    (N, C) and (N,) give a scalar, 0 when N is 0.
    """
    if pred.shape[0] == 0:
        return pred.new_tensor(0.0)
    return (pred.argmax(dim=1) == labels).float().mean() * 100.0
