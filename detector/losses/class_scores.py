"""What a classification loss must offer to read a head's class logits in its own way.

Shapes: K regions, C classes, D channels of the class layer.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class ClassScores(Protocol):
    """A loss whose logits are not C + 1 to put through a softmax."""

    def channels(self, num_classes: int) -> int:
        """D of the class layer for C classes."""
        ...

    def activate(self, cls_score: Tensor) -> Tensor:
        """(K, D) logits give probabilities (K, C + 1), background last."""
        ...

    def accuracies(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Named accuracies in percent of (K, D) logits against (K,) labels, C being background."""
        ...
