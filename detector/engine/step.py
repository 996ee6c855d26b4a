"""One training step: losses, backward, clipping, update; it stops at the first loss that is not finite."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.engine import distributed
from detector.errors import DetectorError
from detector.structures.samples import Batch


class NonFiniteLoss(DetectorError):  # noqa: N818
    """A loss became NaN or infinite; the message names images, terms, rate and the last gradient norm."""


class LossModule(nn.Module):
    """The model's ``loss`` as a ``forward``, for DistributedDataParallel; holds no state of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The detector's losses."""
        losses: dict[str, Tensor] = self.model.loss(batch)  # type: ignore[operator]
        return losses


@dataclass(frozen=True)
class StepResult:
    """What one step recorded.

    Attributes:
        values: every loss term and accuracy, their total as 'loss', and 'grad_norm' when clipping; means over
            all ranks.
        images: number of images on this rank.
        seconds: time of forward, backward and update.
        stop: whether some rank was asked to stop.
    """

    values: dict[str, float]
    images: int
    seconds: dict[str, float]
    stop: bool


def total_loss(losses: Mapping[str, Tensor | Sequence[Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of every entry whose name contains 'loss', and all entries as scalars.

    Args:
        losses: scalars, tensors (their mean counts) or lists of them (summed), as the heads return them.
    """
    scalars = {
        name: value.mean() if isinstance(value, Tensor) else torch.stack([v.mean() for v in value]).sum()
        for name, value in losses.items()
    }
    return torch.stack([value for name, value in scalars.items() if "loss" in name]).sum(), scalars


def training_step(
    loss_module: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    *,
    grad_clip: Mapping[str, float] | None = None,
    stop: bool = False,
    last_norm: float | None = None,
) -> StepResult:
    """One update of the parameters.

    Args:
        loss_module: LossModule or its DistributedDataParallel.
        batch: input on the model's device.
        optimizer: over the same parameters, with this step's rates set.
        grad_clip: arguments of ``clip_grad_norm_`` or None.
        stop: whether this rank was asked to stop; all ranks learn it here.
        last_norm: the step before's gradient norm before clipping, for the error.

    Raises:
        NonFiniteLoss: before any parameter changes.
    """
    started = time.perf_counter()
    total, scalars = total_loss(loss_module(batch))
    values, stop_anywhere = _mean_over_ranks({**scalars, "loss": total}, stop)
    forward_done = time.perf_counter()
    if not math.isfinite(values["loss"]):
        raise _non_finite(batch, scalars, values, optimizer, last_norm)
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    backward_done = time.perf_counter()
    if grad_clip:
        norm = float(
            nn.utils.clip_grad_norm_(
                _with_gradient(optimizer), grad_clip["max_norm"], grad_clip.get("norm_type", 2.0)
            )
        )
        if not math.isfinite(norm):
            raise _non_finite(batch, scalars, {**values, "grad_norm": norm}, optimizer, last_norm)
        values["grad_norm"] = norm
    optimizer.step()
    done = time.perf_counter()
    seconds = {
        "forward": forward_done - started,
        "backward": backward_done - forward_done,
        "optimizer": done - backward_done,
    }
    return StepResult(values=values, images=len(batch.metas), seconds=seconds, stop=stop_anywhere)


def gradient_norm(optimizer: torch.optim.Optimizer) -> float | None:
    """L2 norm over the gradients held now; None when there are none."""
    params = _with_gradient(optimizer)
    return float(nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])) if params else None


def _with_gradient(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Parameters that hold a gradient."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _mean_over_ranks(scalars: Mapping[str, Tensor], stop: bool) -> tuple[dict[str, float], bool]:
    """The scalars' means over all ranks in one transfer, and whether any rank wants to stop."""
    stacked = torch.stack([value.detach().float() for value in scalars.values()])
    flag = stacked.new_tensor([float(stop)])
    numbers = distributed.reduce_mean(torch.cat([stacked, flag])).tolist()
    return dict(zip(scalars, numbers[:-1], strict=True)), numbers[-1] > 0


def _non_finite(
    batch: Batch,
    scalars: Mapping[str, Tensor],
    values: Mapping[str, float],
    optimizer: torch.optim.Optimizer,
    last_norm: float | None,
) -> NonFiniteLoss:
    """The error that says as much about the step as is known."""
    numbers = {name: value.item() for name, value in scalars.items()}
    terms = [f"{name}={value:g}" for name, value in numbers.items() if not math.isfinite(value)]
    if not terms:
        terms = ["the gradients of this step" if "grad_norm" in values else "a loss on another rank"]
    images = ", ".join(str(meta.ori_filename or meta.filename or meta.image_id) for meta in batch.metas)
    before = last_norm if last_norm is not None else gradient_norm(optimizer)
    norm = values.get("grad_norm", before)
    known = "unknown (first step)" if norm is None else f"{norm:g}"
    return NonFiniteLoss(
        f"training: found a value that is not finite in {', '.join(terms)}; images: {images}; "
        f"lr {optimizer.param_groups[0]['lr']:g}; gradient norm {known}"
        f"{'' if 'grad_norm' in values else ' in the step before'}. Lower optimizer.lr, lengthen "
        "lr_config.warmup_iters, set optimizer_config.grad_clip, or look at these images' annotations. "
        "The parameters were not changed by this step."
    )
