"""The state of a run in a checkpoint, and its way back, after which the run continues exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from detector.errors import CheckpointError

if TYPE_CHECKING:
    from detector.engine.trainer import Trainer

RESUME_VERSION = 1
RESUME_KEYS = ("iteration", "epoch_length", "evaluated", "seed", "log_window", "logged_this_epoch")


def payload(run: Trainer) -> dict[str, Any]:
    """What a checkpoint file holds: ``meta``, ``state_dict``, ``optimizer`` as the reference; ``resume``."""
    epoch = run.iteration // len(run.loader)
    return {
        "meta": {**run.meta, "seed": run.seed, "epoch": epoch, "iter": run.iteration},
        "state_dict": host_state(run.model),
        "optimizer": run.optimizer.state_dict(),
        "resume": {
            "version": RESUME_VERSION,
            "iteration": run.iteration,
            "epoch_length": len(run.loader),
            "evaluated": run.evaluated,
            "seed": run.seed,
            "log_window": run.window.state(),
            "logged_this_epoch": run.logged_this_epoch,
        },
    }


def resume_state(content: Mapping[str, Any], source: Path) -> Mapping[str, Any] | None:
    """The ``resume`` part of a checkpoint; None for a file of the reference.

    Raises:
        CheckpointError: the part is incomplete or of a later version.
    """
    state = content.get("resume")
    if state is None:
        return None
    lacking = [key for key in RESUME_KEYS if key not in state] if isinstance(state, Mapping) else RESUME_KEYS
    if lacking:
        raise CheckpointError(
            f"{source}: its 'resume' part lacks {', '.join(lacking)}; expected all of "
            f"{', '.join(RESUME_KEYS)}. Resume from another checkpoint, or "
            "use load_from to take only the weights."
        )
    if state.get("version", RESUME_VERSION) != RESUME_VERSION:
        raise CheckpointError(
            f"{source}: its 'resume' part has version {state['version']!r}; expected {RESUME_VERSION}. "
            "Resume with the release that wrote it, or use load_from to take only the weights."
        )
    return dict(state)


def restore(run: Trainer, content: Mapping[str, Any], source: Path) -> None:
    """Continue where a checkpoint was written; its weights are in the model already.

    A file without ``resume`` (one of the reference's) continues at the start of the epoch after its own.

    Args:
        run: a fresh run of the same config.
        content: the file's dict.
        source: the file, for errors.

    Raises:
        CheckpointError: no optimizer state, or one that does not fit, or an incomplete ``resume``.
    """
    _restore_optimizer(run, content.get("optimizer"), source)
    meta = content.get("meta") or {}
    messages = meta.get("hook_msgs") or {}
    run.checkpoints.messages.update({key: value for key, value in messages.items() if value is not None})
    state = resume_state(content, source)
    if state is None:
        epochs, iterations = int(meta.get("epoch", 0)), int(meta.get("iter", 0))
        run.iteration = epochs * len(run.loader) if run.plan.by_epoch else iterations
        return
    run.iteration = int(state["iteration"])
    run.evaluated = bool(state["evaluated"])
    length = int(state["epoch_length"])
    if length != len(run.loader) and run.plan.by_epoch:
        run.iteration = run.iteration // length * len(run.loader)
        run.log.text(
            f"an epoch has {len(run.loader)} iterations now, {length} before: continuing at the epoch's start"
        )
        return
    run.window.restore(state["log_window"])
    run.logged_this_epoch = bool(state["logged_this_epoch"])


def host_state(model: nn.Module) -> dict[str, Any]:
    """The model's state on the host, with the version metadata that old loaders look for."""
    state: dict[str, Any] = model.state_dict()
    for key, value in state.items():
        state[key] = value.detach().cpu().contiguous()
    return state


def _restore_optimizer(run: Trainer, state: Mapping[str, Any] | None, source: Path) -> None:
    if not state:
        raise CheckpointError(
            f"{source}: found no optimizer state; expected one to resume from. "
            "Use load_from to take only the weights."
        )
    rates = [group["initial_lr"] for group in run.optimizer.param_groups]
    try:
        run.optimizer.load_state_dict(dict(state))
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{source}: its optimizer state does not fit this config's optimizer: {error}. Use load_from."
        ) from error
    for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
        group.setdefault("initial_lr", rate)
