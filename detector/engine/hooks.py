"""The config's ``custom_hooks``: what MMDetection's hooks ask of a run, checked once and typed.

Names, arguments and defaults are the reference's (mmdet 2.28.2 core/hook, mmcv 1.7.2 runner/hooks).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detector.engine.checks import check_keys, positive, unknown_name, whole
from detector.errors import ConfigError

ALWAYS_DONE = {
    "NumClassCheckHook": (),
    "CheckInvalidLossHook": ("interval",),  # every step is checked
    "SetEpochInfoHook": (),
}
AVERAGING = {"ExpMomentumEMAHook": "total_iter", "LinearMomentumEMAHook": "warm_up", "BaseEMAHook": None}
MODE_SWITCH, SYNC_NORM = "YOLOXModeSwitchHook", "SyncNormHook"
HANDLED_HOOKS = (*ALWAYS_DONE, *AVERAGING, MODE_SWITCH, SYNC_NORM)
ANY_HOOK = ("type", "priority")
MIXING = ("Mosaic", "RandomAffine", "MixUp")


@dataclass(frozen=True)
class AveragingPlan:
    """How the weights are averaged over the steps.

    Attributes:
        momentum: share of the present weights, in (0, 1), once the start is over.
        start: 'exp', 'linear' or None: how the share gets there.
        length: iterations of that start.
        interval: iterations between updates.
        skip_buffers: average parameters only, not the statistics of batch norms.
    """

    momentum: float = 0.0002
    start: str | None = None
    length: int = 2000
    interval: int = 1
    skip_buffers: bool = False

    def share(self, iteration: int) -> float:
        """Share of the present weights in the update after an iteration, counted from 0."""
        if self.start == "exp":
            return (1 - self.momentum) * math.exp(-(1 + iteration) / self.length) + self.momentum
        if self.start == "linear":
            return min(self.momentum**self.interval, (1 + iteration) / (self.length + iteration))
        return self.momentum


@dataclass(frozen=True)
class ModeSwitchPlan:
    """YOLOX's last epochs: without mixed images, with an L1 loss.

    Attributes:
        num_last_epochs: the switch comes before the first of these and the epoch ahead of it.
        skip_type_keys: steps of the training pipeline that are left out from then on.
    """

    num_last_epochs: int = 15
    skip_type_keys: tuple[str, ...] = MIXING

    def first_epoch(self, max_epochs: int) -> int:
        """The epoch, counted from 0, that begins with the switch."""
        return max(max_epochs - self.num_last_epochs - 1, 0)


@dataclass(frozen=True)
class SyncNormPlan:
    """When processes take the mean of their batch norms' statistics.

    Attributes:
        num_last_epochs: from the epoch ahead of these on, after every epoch.
        interval: epochs between, until then.
    """

    num_last_epochs: int = 15
    interval: int = 1

    def due(self, done: int, max_epochs: int) -> bool:
        """Whether it is time after ``done`` epochs."""
        return done >= max_epochs - self.num_last_epochs or done % self.interval == 0


@dataclass(frozen=True)
class HookPlan:
    """All of them; None where the config does not ask."""

    averaging: AveragingPlan | None = None
    mode_switch: ModeSwitchPlan | None = None
    sync_norm: SyncNormPlan | None = None


def read_hooks(custom_hooks: Sequence[Mapping[str, Any]] | None) -> HookPlan:
    """Plan of the config's ``custom_hooks``.

    Raises:
        ConfigError: a hook that is not built in, or an argument that it does not take.
    """
    found: dict[str, Any] = {}
    for hook in custom_hooks or []:
        kind = str(hook.get("type"))
        if kind in ALWAYS_DONE:
            check_keys(f"custom_hooks ({kind})", hook, (*ANY_HOOK, *ALWAYS_DONE[kind]))
        elif kind in AVERAGING:
            found["averaging"] = _averaging(kind, hook)
        elif kind == MODE_SWITCH:
            found["mode_switch"] = _mode_switch(hook)
        elif kind == SYNC_NORM:
            found["sync_norm"] = _sync_norm(hook)
        else:
            raise unknown_name("custom_hooks", kind, HANDLED_HOOKS)
    return HookPlan(**found)


def _averaging(kind: str, hook: Mapping[str, Any]) -> AveragingPlan:
    where, length = f"custom_hooks ({kind})", AVERAGING[kind]
    known = ("momentum", "interval", "skip_buffers", "resume_from", *([length] if length else []))
    check_keys(where, hook, (*ANY_HOOK, *known))
    if hook.get("resume_from") is not None:
        raise ConfigError(
            f"{where}.resume_from: found {hook['resume_from']!r}; the averaged weights are in the run's "
            "checkpoints. Remove it and use --resume-from."
        )
    momentum = hook.get("momentum", 0.0002)
    if not isinstance(momentum, float) or not 0 < momentum < 1:
        raise ConfigError(f"{where}.momentum: found {momentum!r}; expected a number between 0 and 1.")
    start = {"total_iter": "exp", "warm_up": "linear", None: None}[length]
    default = {"total_iter": 2000, "warm_up": 100, None: 1}[length]
    return AveragingPlan(
        momentum=momentum,
        start=start,
        length=positive(f"{where}.{length}", hook.get(length, default)) if length else default,
        interval=positive(f"{where}.interval", hook.get("interval", 1)),
        skip_buffers=bool(hook.get("skip_buffers", False)),
    )


def _mode_switch(hook: Mapping[str, Any]) -> ModeSwitchPlan:
    where = f"custom_hooks ({MODE_SWITCH})"
    check_keys(where, hook, (*ANY_HOOK, "num_last_epochs", "skip_type_keys"))
    return ModeSwitchPlan(
        num_last_epochs=whole(f"{where}.num_last_epochs", hook.get("num_last_epochs", 15)),
        skip_type_keys=tuple(hook.get("skip_type_keys", MIXING)),
    )


def _sync_norm(hook: Mapping[str, Any]) -> SyncNormPlan:
    where = f"custom_hooks ({SYNC_NORM})"
    check_keys(where, hook, (*ANY_HOOK, "num_last_epochs", "interval"))
    return SyncNormPlan(
        num_last_epochs=whole(f"{where}.num_last_epochs", hook.get("num_last_epochs", 15)),
        interval=positive(f"{where}.interval", hook.get("interval", 1)),
    )
