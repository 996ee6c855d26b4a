"""Losses on the overlap of decoded boxes.

Shapes: N boxes.
Boxes: xyxy, pixels, no +1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detector.losses.reduction import reduce
from detector.ops.iou import aligned_giou, aligned_iou


class _OverlapLoss(nn.Module):
    """Shared reduction of the box losses; a subclass gives the element loss (N,)."""

    def __init__(self, *, eps: float = 1e-6, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        """``eps`` guards divisions and logarithms."""
        super().__init__()
        self.eps, self.reduction, self.loss_weight = eps, reduction, loss_weight

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, 4) and (N, 4) give (N,)."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
        reduction: str | None = None,
    ) -> Tensor:
        """Loss of (N, 4) boxes against (N, 4) boxes; ``weight`` is (N,), or (N, 4) with equal columns.

        ``reduction`` takes the place of the configured one.
        """
        reduction = reduction or self.reduction
        if reduction != "none" and weight is not None and weight.dim() > 1 and not bool((weight > 0).any()):
            return (pred * weight).sum()
        value = self.elementwise(pred, target)
        if weight is not None and weight.dim() > value.dim():
            weight = weight.mean(dim=-1)
        return self.loss_weight * reduce(value, weight, reduction=reduction, avg_factor=avg_factor)


class IoULoss(_OverlapLoss):
    """Minus log, or one minus, the IoU. Source: Yu et al., 2016, arXiv:1608.01471."""

    def __init__(
        self,
        *,
        linear: bool = False,
        mode: str = "log",
        eps: float = 1e-6,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        """``mode``: log, linear (1 - IoU) or square (1 - IoU^2)."""
        super().__init__(eps=eps, reduction=reduction, loss_weight=loss_weight)
        self.mode = "linear" if linear else mode

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, 4) and (N, 4) give (N,)."""
        iou = aligned_iou(pred, target).clamp(min=self.eps)
        return {"linear": lambda: 1 - iou, "square": lambda: 1 - iou**2, "log": lambda: -iou.log()}[
            self.mode
        ]()


class GIoULoss(_OverlapLoss):
    """One minus the generalised IoU. Source: Rezatofighi et al., CVPR 2019, arXiv:1902.09630."""

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, 4) and (N, 4) give (N,)."""
        return 1 - aligned_giou(pred, target, eps=self.eps)


def _centre_terms(pred: Tensor, target: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """IoU, and squared centre distance over squared diagonal of the enclosing box."""
    size = (torch.minimum(pred[:, 2:], target[:, 2:]) - torch.maximum(pred[:, :2], target[:, :2])).clamp(
        min=0
    )
    overlap = size[:, 0] * size[:, 1]
    area = (pred[:, 2:] - pred[:, :2]).prod(dim=1) + (target[:, 2:] - target[:, :2]).prod(dim=1)
    iou = overlap / (area - overlap + eps)
    hull = (torch.maximum(pred[:, 2:], target[:, 2:]) - torch.minimum(pred[:, :2], target[:, :2])).clamp(
        min=0
    )
    offset = (target[:, :2] + target[:, 2:]) - (pred[:, :2] + pred[:, 2:])
    return iou, (offset**2).sum(dim=1) / 4 / ((hull**2).sum(dim=1) + eps)


class DIoULoss(_OverlapLoss):
    """IoU with the distance of the centres. Source: Zheng et al., AAAI 2020, arXiv:1911.08287."""

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, 4) and (N, 4) give (N,)."""
        iou, distance = _centre_terms(pred, target, self.eps)
        return 1 - (iou - distance)


class CIoULoss(_OverlapLoss):
    """DIoU with the difference of the aspect ratios. Source: Zheng et al., 2020, arXiv:2005.03572."""

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, 4) and (N, 4) give (N,)."""
        iou, distance = _centre_terms(pred, target, self.eps)
        w, h = (pred[:, 2:] - pred[:, :2]).unbind(dim=1)
        target_w, target_h = (target[:, 2:] - target[:, :2]).unbind(dim=1)
        angle = torch.atan(target_w / (target_h + self.eps)) - torch.atan(w / (h + self.eps))
        aspect = 4 / math.pi**2 * angle**2
        with torch.no_grad():
            alpha = (
                (iou > 0.5).to(iou) * aspect / (1 - iou + aspect).clamp(min=self.eps)
            )  # 0 / 0 for equal boxes
        return 1 - (iou - (distance + alpha * aspect)).clamp(min=-1.0, max=1.0)


class BoundedIoULoss(nn.Module):
    """Upper bound of the IoU loss per coordinate.

    Source: Tychsen-Smith et al., CVPR 2018, arXiv:1711.00164.
    """

    def __init__(
        self, *, beta: float = 0.2, eps: float = 1e-3, reduction: str = "mean", loss_weight: float = 1.0
    ) -> None:
        """``beta`` as in smooth L1."""
        super().__init__()
        self.beta, self.eps, self.reduction, self.loss_weight = beta, eps, reduction, loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of (N, 4) boxes against (N, 4) boxes; ``weight`` (N, 4) or None."""
        size, target_size = pred[:, 2:] - pred[:, :2], (target[:, 2:] - target[:, :2]).detach()
        offset = ((target[:, :2] + target[:, 2:]) * 0.5).detach() - (pred[:, :2] + pred[:, 2:]) * 0.5
        centre = 1 - ((target_size - 2 * offset.abs()) / (target_size + 2 * offset.abs() + self.eps)).clamp(
            min=0
        )
        ratio = 1 - torch.minimum(target_size / (size + self.eps), size / (target_size + self.eps))
        value = torch.stack((centre, ratio), dim=1).flatten(1)
        value = torch.where(value < self.beta, 0.5 * value * value / self.beta, value - 0.5 * self.beta)
        return self.loss_weight * reduce(value, weight, reduction=self.reduction, avg_factor=avg_factor)
