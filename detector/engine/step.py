"""One training step: losses, backward, clipping, update; it stops at the first loss that is not finite.

In float16 a step that is not finite is left out, and only many in a row are an error.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.engine import distributed
from detector.engine.precision import LossScaler
from detector.errors import DetectorError
from detector.structures.samples import Batch

LEFT_OUT_LIMIT = 30  # float16 steps in a row without an update; a dynamic scale has fallen by 2 ** 30 then


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


def wrap_for_ranks(model: nn.Module, device: torch.device, *, find_unused_parameters: bool) -> nn.Module:
    """LossModule of the model, synchronising gradients when there are several processes."""
    module = LossModule(model)
    if distributed.world_size() == 1:
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for broadcast_buffers
        return nn.parallel.DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=find_unused_parameters,
        )


def announce(model: nn.Module, epoch: int, iteration: int) -> None:
    """Tell the parts that train by a plan of their own (``set_progress``) where the run is, from 0."""
    for module in model.modules():
        if hasattr(type(module), "set_progress"):
            module.set_progress(epoch=epoch, iteration=iteration)  # type: ignore[operator]


@dataclass(frozen=True)
class StepResult:
    """What one step recorded.

    Attributes:
        values: every loss term and accuracy, their total as 'loss', and 'grad_norm' when clipping; means over
            all ranks. The norm is that of the step that updates.
        images: number of images on this rank.
        seconds: time of forward, backward and update.
        stop: whether some rank was asked to stop.
    """

    values: dict[str, float]
    images: int
    seconds: dict[str, float]
    stop: bool


@dataclass(frozen=True)
class Portion:
    """A step's part of an update that several steps make together.

    Attributes:
        of: number of steps of the update; the gradient is the mean over them.
        first: whether it is the first of them.
        last: whether it is the last, after which the parameters change.
    """

    of: int = 1
    first: bool = True
    last: bool = True

    @staticmethod
    def at(iteration: int, max_iterations: int, accumulate: int) -> Portion:
        """The portion of an iteration, counted from 0; the run's last update may have fewer steps."""
        remainder = max_iterations % accumulate
        return Portion(
            of=accumulate if iteration < max_iterations - remainder else remainder,
            first=iteration % accumulate == 0,
            last=(iteration + 1) % accumulate == 0 or iteration + 1 == max_iterations,
        )


WHOLE = Portion()


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
    scaler: LossScaler | None = None,
    portion: Portion = WHOLE,
    timed: bool = True,
) -> StepResult:
    """One update of the parameters, or a portion of it.

    Args:
        loss_module: LossModule or its DistributedDataParallel.
        batch: input on the model's device.
        optimizer: over the same parameters, with this step's rates set.
        grad_clip: arguments of ``clip_grad_norm_`` or None.
        stop: whether this rank was asked to stop; all ranks learn it here.
        last_norm: the step before's gradient norm before clipping, for the error.
        scaler: of float16.
        portion: this step's part of an update.
        timed: wait for the GPU after each part, so that ``seconds`` tells them apart; a CPU needs no waiting.

    Raises:
        NonFiniteLoss: before any parameter changes.
    """
    started = time.perf_counter()
    total, scalars = total_loss(loss_module(batch))
    values, stop_anywhere = _mean_over_ranks({**scalars, "loss": total}, stop)
    forward_done = time.perf_counter()
    if not math.isfinite(values["loss"]) and scaler is None:
        raise _non_finite(batch, scalars, values, optimizer, last_norm)
    if portion.first:
        optimizer.zero_grad(set_to_none=True)
    share = total / portion.of if portion.of > 1 else total
    (share if scaler is None else scaler.scale(share)).backward()  # type: ignore[no-untyped-call]
    backward_done = _now(total, timed)
    if portion.last:
        norm = _update(optimizer, grad_clip, scaler)
        values |= {} if norm is None else {"grad_norm": norm}
        too_many = scaler is not None and scaler.left_out >= LEFT_OUT_LIMIT
        if too_many or (scaler is None and norm is not None and not math.isfinite(norm)):
            raise _non_finite(batch, scalars, values, optimizer, last_norm)
    done = _now(total, timed)
    seconds = {
        "forward": forward_done - started,
        "backward": backward_done - forward_done,
        "optimizer": done - backward_done,
    }
    return StepResult(values=values, images=len(batch.metas), seconds=seconds, stop=stop_anywhere)


def _now(loss: Tensor, timed: bool) -> float:
    """The clock, once the GPU has done what it was given."""
    if timed and loss.is_cuda:
        torch.cuda.synchronize(loss.device)
    return time.perf_counter()


def _update(
    optimizer: torch.optim.Optimizer, grad_clip: Mapping[str, float] | None, scaler: LossScaler | None
) -> float | None:
    """Clip and update; the norm before clipping, None when nothing clips.

    Gradients that are not finite change no parameter.
    """
    norm = None
    if scaler is not None:
        scaler.unscale(optimizer)
    if grad_clip:
        kind = grad_clip.get("norm_type", 2.0)
        norm = float(nn.utils.clip_grad_norm_(_with_gradient(optimizer), grad_clip["max_norm"], kind))
    if scaler is not None:
        measured = norm if norm is not None else gradient_norm(optimizer)
        scaler.step(optimizer, finite=measured is None or math.isfinite(measured))
    elif norm is None or math.isfinite(norm):
        optimizer.step()
    return norm


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
