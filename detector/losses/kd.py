"""Distance between the softened distributions of a teacher and its student.

Shapes: N samples, n + 1 bins.
Paper: Hinton et al., 2015, arXiv:1503.02531; checked against mmdet 2.28.2 models/losses/kd_loss.py.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from detector.losses.reduction import reduce


class KnowledgeDistillationKLDivLoss(nn.Module):
    """Kullback-Leibler divergence, averaged over bins."""

    def __init__(self, *, reduction: str = "mean", loss_weight: float = 1.0, T: float = 10) -> None:
        """``T`` is the temperature that divides both logits, 1 or more."""
        super().__init__()
        self.reduction, self.loss_weight, self.temperature = reduction, loss_weight, T

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Loss of the student's (N, n + 1) logits against the teacher's; ``weight`` (N,) or None.

        No gradient flows to the teacher.
        """
        wanted = (target / self.temperature).softmax(dim=1).detach()
        found = (pred / self.temperature).log_softmax(dim=1)
        value = functional.kl_div(found, wanted, reduction="none").mean(dim=1) * self.temperature**2
        return self.loss_weight * reduce(value, weight, reduction=self.reduction, avg_factor=avg_factor)
