"""Seesaw loss: rare classes are punished less by frequent ones, more by those they are mistaken for.

Shapes: K regions, S_pos of them positive, C classes.
Paper: Wang et al., CVPR 2021, arXiv:2008.10032; checked against mmdet 2.28.2 models/losses/seesaw_loss.py.
The buffer ``cum_samples`` is part of the checkpoint format.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.losses.cross_entropy import accuracy
from detector.losses.reduction import reduce


class SeesawLoss(nn.Module):
    """Objectness by cross entropy, classes of positives by a reweighted one; C + 2 logits per region."""

    cum_samples: Tensor

    def __init__(
        self,
        *,
        use_sigmoid: bool = False,
        p: float = 0.8,
        q: float = 2.0,
        num_classes: int = 1203,
        eps: float = 1e-2,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        return_dict: bool = True,
    ) -> None:
        """Describe the loss.

        Args:
            use_sigmoid: only False exists.
            p: power of the mitigation by class counts; 0 does without.
            q: power of the compensation of mistakes; 0 does without.
            num_classes: C.
            eps: least probability of the own class that the compensation divides by.
            reduction: mean, sum or none.
            loss_weight: factor of both parts.
            return_dict: name the two parts instead of adding them.

        Raises:
            ConfigError: ``use_sigmoid`` is True.
        """
        super().__init__()
        if use_sigmoid:
            raise ConfigError("SeesawLoss: use_sigmoid=True does not exist; remove the setting.")
        self.p, self.q, self.num_classes, self.eps = p, q, num_classes, eps
        self.reduction, self.loss_weight, self.return_dict = reduction, loss_weight, return_dict
        self.register_buffer("cum_samples", torch.zeros(num_classes + 1))

    def channels(self, num_classes: int) -> int:
        """C + 2: the classes, object, background.

        Raises:
            ConfigError: the loss was made for another number of classes.
        """
        if num_classes != self.num_classes:
            raise ConfigError(
                f"SeesawLoss: num_classes={self.num_classes}, but its head has {num_classes}; "
                "make them equal."
            )
        return num_classes + 2

    def activate(self, cls_score: Tensor) -> Tensor:
        """(K, C + 2) logits give probabilities (K, C + 1), background last."""
        classes, objectness = cls_score[..., :-2].softmax(dim=-1), cls_score[..., -2:].softmax(dim=-1)
        return torch.cat((classes * objectness[..., :1], objectness[..., 1:]), dim=-1)

    def accuracies(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Percent of (K, C + 2) logits that are right: acc_objectness, and acc_classes of positives."""
        positive = labels < self.num_classes
        return {
            "acc_objectness": accuracy(cls_score[:, -2:], (~positive).long()),
            "acc_classes": accuracy(cls_score[positive, :-2], labels[positive]),
        }

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Count the labels, then compute the loss.

        Args:
            cls_score: (K, C + 2) logits.
            labels: (K,) int64, C is background.
            weight: (K,) or None.
            avg_factor: what the means divide by.

        Returns:
            loss_cls_objectness and loss_cls_classes, or their sum; both 0 with gradients without regions.
        """
        self.cum_samples += torch.bincount(labels, minlength=self.num_classes + 1).to(self.cum_samples)
        weight = torch.ones_like(labels, dtype=cls_score.dtype) if weight is None else weight.to(cls_score)
        positive = labels < self.num_classes
        classes = self._reweighted(cls_score[positive, :-2], labels[positive])
        objectness = functional.cross_entropy(cls_score[:, -2:], (~positive).long(), reduction="none")
        parts = {
            "loss_cls_objectness": self._reduced(objectness, weight, avg_factor),
            "loss_cls_classes": self._reduced(classes, weight[positive], avg_factor),
        }
        return parts if self.return_dict else parts["loss_cls_objectness"] + parts["loss_cls_classes"]

    def _reduced(self, loss: Tensor, weight: Tensor, avg_factor: float | Tensor | None) -> Tensor:
        if len(loss) == 0 and self.reduction == "mean":
            return loss.sum()
        return self.loss_weight * reduce(loss, weight, reduction=self.reduction, avg_factor=avg_factor)

    def _reweighted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy (S_pos,) of (S_pos, C) logits, every other class weighted inside the softmax."""
        factors = torch.ones_like(logits)
        if self.p > 0:
            counts = self.cum_samples[: self.num_classes].clamp(min=1)
            rarer = counts[None] / counts[labels][:, None]
            factors = factors * torch.where(rarer < 1, rarer.pow(self.p), 1.0)
        if self.q > 0:
            scores = logits.detach().softmax(dim=1)
            mistaken = scores / scores.gather(1, labels[:, None]).clamp(min=self.eps)
            factors = factors * torch.where(mistaken > 1, mistaken.pow(self.q), 1.0)
        others = 1 - functional.one_hot(labels, self.num_classes).to(logits)
        return functional.cross_entropy(logits + factors.log() * others, labels, reduction="none")
