"""The state of a run in a checkpoint, and its way back, after which the run continues exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from detector.checkpoint.digest import weights_sha256
from detector.checkpoint.files import manifest_path
from detector.config import Config
from detector.engine import distributed
from detector.engine.checkpoints import find_resume_point
from detector.errors import CheckpointError
from detector.lineage.models import checkpoint_stamp
from detector.lineage.stamp import KEY

if TYPE_CHECKING:
    from detector.engine.trainer import Trainer

RESUME_VERSION = 1
NUMBERS_DEPEND_ON = ("PyTorch", "TorchVision", "NumPy", "CUDA", "GPU", "threads")
RESUME_KEYS = ("iteration", "epoch_length", "evaluated", "seed", "log_window", "logged_this_epoch")


def payload(run: Trainer) -> dict[str, Any]:
    """What a checkpoint file holds: ``meta``, ``state_dict``, ``optimizer`` as the reference; ``resume``."""
    epoch = run.iteration // len(run.loader)
    state = host_state(run.model)
    if run.averaging is not None:
        run.averaging.write_into(state)
    stamp = checkpoint_stamp(run.meta.get(KEY) or {}, state)
    return {
        "meta": {
            **run.meta,
            **({KEY: stamp} if stamp else {}),
            "seed": run.seed,
            "epoch": epoch,
            "iter": run.iteration,
        },
        "state_dict": state,
        "optimizer": run.optimizer.state_dict(),
        "resume": {
            "version": RESUME_VERSION,
            "iteration": run.iteration,
            "epoch_length": len(run.loader),
            "evaluated": run.evaluated,
            "seed": run.seed,
            "log_window": run.window.state(),
            "logged_this_epoch": run.logged_this_epoch,
            "scaler": run.scaler.state() if run.scaler is not None else None,
            "gradients": _gradients(run),
            "parts": {name: part.training_state() for name, part in _parts(run.model)},
        },
    }


def resume_source(
    config: Config,
    work_dir: Path,
    resume_from: str | Path | None,
    *,
    auto_resume: bool,
    note: Callable[[str], None],
) -> Path | None:
    """The checkpoint to continue from, or None."""
    given = resume_from or config.data.get("resume_from")
    if given:
        path = Path(given)
        if not path.is_file():
            raise CheckpointError(
                f"resume_from: found no file {path}; expected a checkpoint. Give one from the run's work_dir."
            )
        return path
    if not auto_resume:
        return None
    found, damaged = find_resume_point(work_dir) if distributed.rank() == 0 else (None, [])
    for path in damaged:
        note(f"auto-resume: {path} is damaged or incomplete and is passed over")
    chosen = distributed.broadcast_text(str(found or ""))  # on a shared folder two looks may differ
    found = Path(chosen) if chosen else None
    if found is not None and not manifest_path(found).is_file():
        note(f"auto-resume: {found} has no digest beside it; it is used, since it can be read")
    note(
        f"auto-resume: continuing from {found}"
        if found
        else f"auto-resume: no intact checkpoint in {work_dir}; starting afresh"
    )
    return found


def last_seed(work_dir: Path) -> int | None:
    """Seed of the newest log in a work_dir, for a run that died before its first checkpoint."""
    logs = sorted(work_dir.glob("*.log.json"))
    if not logs:
        return None
    with logs[-1].open(encoding="utf-8") as lines:
        try:
            seed = json.loads(lines.readline()).get("seed")
        except ValueError:
            return None
    return seed if isinstance(seed, int) else None


def weights_digest(model: nn.Module) -> str:
    """sha256 over the names and bytes of the model's state: equal for equal weights, on any device."""
    return weights_sha256(model.state_dict())


def _gradients(run: Trainer) -> dict[str, Tensor]:
    """What steps of an unfinished update have added up; empty between updates."""
    if run.iteration % run.plan.accumulate == 0 or run.iteration >= run.position.max_iterations:
        return {}
    named = run.model.named_parameters()
    return {name: p.grad.detach().cpu() for name, p in named if p.grad is not None}


def _parts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules that keep numbers of the training beside their weights (``training_state``)."""
    return ((name, part) for name, part in model.named_modules() if hasattr(type(part), "training_state"))


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
    if run.averaging is not None and not run.averaging.restore(content["state_dict"]):
        run.log.text(f"{source} has no averaged weights: the average starts from its weights")
    meta = content.get("meta") or {}
    _compare_machines(run, meta)
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
    if length != len(run.loader):
        now = f"an epoch has {len(run.loader)} iterations now, {length} before"
        if run.plan.by_epoch:
            run.iteration = run.iteration // length * len(run.loader)
            run.log.text(f"{now}: continuing at the epoch's start")
        else:
            run.log.text(f"{now}: continuing at iteration {run.iteration} with other images than before")
        return
    run.window.restore(state["log_window"])
    run.logged_this_epoch = bool(state["logged_this_epoch"])
    _restore_step(run, state)


def _restore_step(run: Trainer, state: Mapping[str, Any]) -> None:
    """What a step leaves for the next one: the loss scale, gradients of an unfinished update, counts."""
    if run.scaler is not None and state.get("scaler"):
        run.scaler.restore(state["scaler"])
    gradients = state.get("gradients") or {}
    for name, param in run.model.named_parameters():
        if name in gradients:
            param.grad = gradients[name].to(param)
    parts = state.get("parts") or {}
    for name, part in _parts(run.model):
        if name in parts:
            part.load_training_state(parts[name])


def _compare_machines(run: Trainer, meta: Mapping[str, Any]) -> None:
    """Say what of the machine and the versions changed, since the last bits of the weights depend on it."""
    before = set(str(meta.get("env_info") or "").splitlines())
    now = str(run.meta.get("env_info") or "").splitlines()
    changed = [line for line in now if line not in before and line.partition(":")[0] in NUMBERS_DEPEND_ON]
    if before and changed:
        run.log.text(
            f"the checkpoint was written with other settings than now ({', '.join(changed)}): the result may "
            "differ in the last bits from an uninterrupted run's"
        )


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
    stored = run.optimizer.param_groups[0]["initial_lr"]
    if stored != rates[0]:
        run.log.text(
            f"the config's rate {rates[0]:g} has no effect: a resumed run keeps its own, {stored:g}. Use "
            "load_from to start a new run from these weights"
        )
