"""Weights averaged over the steps (EMA), which evaluations and checkpoints use instead of the trained ones.

A checkpoint has the averaged weights under the model's own names and the trained ones as ``ema_<name>``,
dots as underscores: the layout of MMDetection's EMA hooks (mmdet 2.28.2 core/hook/ema.py), whose files this
reads and which reads these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detector.engine.hooks import AveragingPlan


class WeightAverage:
    """The exponential moving average of a model's weights.

    Args:
        model: on its device, with the weights that the average starts from.
        plan: how fast it follows.
    """

    def __init__(self, model: nn.Module, plan: AveragingPlan) -> None:
        self.plan = plan
        named = dict(model.named_parameters()) if plan.skip_buffers else model.state_dict()
        self._live: dict[str, Tensor] = {
            name: value.detach() for name, value in named.items() if value.is_floating_point()
        }
        self._average = {name: value.clone() for name, value in self._live.items()}

    def update(self, iteration: int) -> None:
        """Follow the weights after an iteration, counted from 0."""
        if (iteration + 1) % self.plan.interval:
            return
        share = self.plan.share(iteration)
        averages = list(self._average.values())
        torch._foreach_mul_(averages, 1 - share)
        torch._foreach_add_(averages, list(self._live.values()), alpha=share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights for the time of a ``with`` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def write_into(self, state: dict[str, Any]) -> None:
        """Turn a state dict of the trained weights, on the host, into one that holds both."""
        for name, average in self._average.items():
            state[stored_name(name)] = state[name]
            state[name] = average.cpu().contiguous().clone()

    def restore(self, state: Mapping[str, Tensor]) -> bool:
        """Take both kinds of weights from a checkpoint's state dict into the average and the model.

        Returns:
            False when the file holds no averages: they start from the model's weights then.
        """
        known = all(stored_name(name) in state for name in self._live)
        with torch.no_grad():
            for name, live in self._live.items():
                if known:
                    self._average[name].copy_(state[name])
                    live.copy_(state[stored_name(name)])
                else:
                    self._average[name].copy_(live)
        return known

    def _swap(self) -> None:
        with torch.no_grad():
            for name, live in self._live.items():
                kept = live.clone()
                live.copy_(self._average[name])
                self._average[name].copy_(kept)


def stored_name(name: str) -> str:
    """Key of a trained weight in a checkpoint whose own names hold the averages."""
    return f"ema_{name.replace('.', '_')}"
