"""Learning rates as pure functions of the position in a run, with the reference's policies and warm-ups.

Checked against mmcv 1.7.2 ``runner/hooks/lr_updater.py``: a policy maps (base rate, progress, total) to the
regular rate,
where progress counts finished epochs (``by_epoch``) or finished iterations; warm-up then scales the regular
rate by iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detector.engine.checks import check_keys, unknown_name
from detector.errors import ConfigError

Policy = Callable[[float, float, float], float]

WARMUPS = ("constant", "linear", "exp")
NUMBERS = ("gamma", "min_lr", "min_lr_ratio", "power", "warmup_iters", "warmup_ratio")
COMMON_KEYS = ("policy", "by_epoch", "warmup", "warmup_iters", "warmup_ratio", "warmup_by_epoch")


@dataclass(frozen=True)
class Position:
    """Where in a run the next step is.

    Attributes:
        iteration: finished iterations of the whole run.
        epoch_length: iterations of one epoch.
        max_iterations: iterations of the whole run.
    """

    iteration: int
    epoch_length: int
    max_iterations: int

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.iteration // self.epoch_length

    @property
    def max_epochs(self) -> int:
        """Epochs of the whole run, the last one possibly cut."""
        return math.ceil(self.max_iterations / self.epoch_length)


def fixed() -> Policy:
    """The base rate throughout."""
    return lambda base, progress, total: base


def step(step: int | Sequence[int], gamma: float = 0.1, min_lr: float | None = None) -> Policy:
    """Multiply by ``gamma`` at each milestone, or every ``step`` units when it is one number."""

    def lr(base: float, progress: float, total: float) -> float:
        passed = progress // step if isinstance(step, int) else sum(progress >= s for s in sorted(step))
        value = base * gamma**passed
        return value if min_lr is None else max(value, min_lr)

    return lr


def cosine(min_lr: float | None = None, min_lr_ratio: float | None = None) -> Policy:
    """Half a cosine from the base rate to ``min_lr`` (or ``min_lr_ratio`` times the base rate)."""
    if (min_lr is None) == (min_lr_ratio is None):
        raise ConfigError(
            f"lr_config (CosineAnnealing): found min_lr={min_lr} and min_lr_ratio={min_lr_ratio}; expected "
            "exactly one of them. "
            "Set min_lr=0 to end at zero."
        )

    def lr(base: float, progress: float, total: float) -> float:
        end = base * min_lr_ratio if min_lr_ratio is not None else float(min_lr or 0)
        return end + 0.5 * (base - end) * (math.cos(math.pi * progress / total) + 1)

    return lr


def poly(power: float = 1.0, min_lr: float = 0.0) -> Policy:
    """``(base - min_lr) * (1 - progress / total) ** power + min_lr``."""
    return lambda base, progress, total: (base - min_lr) * (1 - progress / total) ** power + min_lr


def exp(gamma: float) -> Policy:
    """``base * gamma ** progress``."""
    return lambda base, progress, total: base * gamma**progress


def inv(gamma: float, power: float = 1.0) -> Policy:
    """``base * (1 + gamma * progress) ** -power``."""
    return lambda base, progress, total: base * (1 + gamma * progress) ** -power


POLICIES: dict[str, tuple[Callable[..., Policy], tuple[str, ...]]] = {
    "fixed": (fixed, ()),
    "step": (step, ("step", "gamma", "min_lr")),
    "CosineAnnealing": (cosine, ("min_lr", "min_lr_ratio")),
    "poly": (poly, ("power", "min_lr")),
    "exp": (exp, ("gamma",)),
    "inv": (inv, ("gamma", "power")),
}


@dataclass(frozen=True)
class Warmup:
    """How the rate starts.

    Attributes:
        kind: 'constant', 'linear' or 'exp'.
        length: iterations, or epochs when ``by_epoch``.
        ratio: share of the regular rate at the start, in (0, 1].
        by_epoch: whether ``length`` counts epochs.
    """

    kind: str
    length: int
    ratio: float
    by_epoch: bool = False

    def scale(self, iteration: int, epoch_length: int) -> float:
        """Factor on the regular rate after ``iteration`` finished iterations; 1 once the warm-up is over."""
        length = self.length * (epoch_length if self.by_epoch else 1)
        if iteration >= length:
            return 1.0
        if self.kind == "constant":
            return self.ratio
        left = 1 - iteration / length
        return float(self.ratio**left) if self.kind == "exp" else 1 - left * (1 - self.ratio)


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every position of a run."""

    policy: Policy
    by_epoch: bool = True
    warmup: Warmup | None = None

    def lr(self, base: float, position: Position) -> float:
        """Rate for the step that starts at ``position``, for a parameter group with rate ``base``."""
        if self.by_epoch:
            regular = self.policy(base, position.epoch, position.max_epochs)
        else:
            regular = self.policy(base, position.iteration, position.max_iterations)
        if self.warmup is None:
            return regular
        return regular * self.warmup.scale(position.iteration, position.epoch_length)


@dataclass(frozen=True)
class YoloxSchedule:
    """YOLOX's rate: a quadratic start, half a cosine, and a last part at the end rate.

    Attributes:
        num_last_epochs: epochs at the end rate; the step before them has it already.
        warmup: length of the start, and the share of the base rate that it reaches.
        min_lr_ratio: the end rate as a share of the base rate, or None.
        min_lr: the end rate without ``min_lr_ratio``.

    Checked against mmdet 2.28.2 core/hook/yolox_lrupdater_hook.py.
    """

    num_last_epochs: int
    warmup: Warmup | None = None
    min_lr_ratio: float | None = None
    min_lr: float = 0.0

    def lr(self, base: float, position: Position) -> float:
        """Rate for the step that starts at ``position``, for a parameter group with rate ``base``."""
        start = self._start(position.epoch_length)
        if self.warmup is not None and position.iteration < start:
            return base * self.warmup.ratio * ((position.iteration + 1) / start) ** 2
        end = self.min_lr if self.min_lr_ratio is None else base * self.min_lr_ratio
        last = position.epoch_length * self.num_last_epochs
        done = position.iteration + 1
        if done >= position.max_iterations - last:
            return end
        progress = (done - start) / (position.max_iterations - start - last)
        return end + 0.5 * (base - end) * (math.cos(math.pi * progress) + 1)

    def _start(self, epoch_length: int) -> int:
        """Iterations of the start."""
        if self.warmup is None:
            return 0
        return self.warmup.length * (epoch_length if self.warmup.by_epoch else 1)


def build_schedule(lr_config: Mapping[str, Any] | None, *, by_epoch: bool = True) -> Schedule | YoloxSchedule:
    """Schedule of the dialect's ``lr_config``; None is a fixed rate.

    Args:
        lr_config: the config's dict.
        by_epoch: what counts as progress when the dict does not say: epochs, or iterations for an
            iteration-based runner.

    Raises:
        ConfigError: unknown policy, warm-up or key, or a value out of range.
    """
    if lr_config is None:
        return Schedule(policy=fixed())
    if not isinstance(lr_config, Mapping):
        raise ConfigError(f"lr_config: found {lr_config!r}; expected dict(policy='step', step=[8, 11], ...).")
    options = dict(lr_config)
    name = str(options.pop("policy", ""))
    if name.lower() == "yolox":
        return _yolox(options)
    known = {key.lower(): key for key in POLICIES}
    if name.lower() not in known:
        raise unknown_name("lr_config.policy", name, (*POLICIES, "YOLOX"))
    factory, accepted = POLICIES[known[name.lower()]]
    check_keys("lr_config", options, (*COMMON_KEYS, *accepted))
    _check_numbers(options)
    warmup = _warmup(options)
    counts_epochs = bool(options.pop("by_epoch", by_epoch))
    try:
        policy = factory(**options)
    except TypeError as error:
        raise ConfigError(
            f"lr_config: policy {name!r} found {options}; expected {accepted}. {error}."
        ) from error
    return Schedule(policy=policy, by_epoch=counts_epochs, warmup=warmup)


def _yolox(options: dict[str, Any]) -> YoloxSchedule:
    """YOLOX's schedule; it counts iterations, and its start is quadratic (``warmup='exp'``)."""
    check_keys("lr_config", options, (*COMMON_KEYS, "num_last_epochs", "min_lr", "min_lr_ratio"))
    _check_numbers(options)
    if options.pop("by_epoch", True):
        raise ConfigError(
            "lr_config.by_epoch: found True, or nothing, which means it; expected False for the policy "
            "'YOLOX', which counts iterations. Set by_epoch=False."
        )
    last = options.get("num_last_epochs")
    if not isinstance(last, int) or isinstance(last, bool) or last < 0:
        raise ConfigError(f"lr_config.num_last_epochs: found {last!r}; expected a whole number, such as 15.")
    if options.get("warmup") not in (None, "exp"):
        raise unknown_name("lr_config.warmup", str(options["warmup"]), ("exp",))
    return YoloxSchedule(
        num_last_epochs=last,
        warmup=_warmup(options),
        min_lr_ratio=options.get("min_lr_ratio"),
        min_lr=float(options.get("min_lr") or 0.0),
    )


def _check_numbers(options: Mapping[str, Any]) -> None:
    """Refuse texts and the like where the policies and the warm-up calculate."""
    for key in NUMBERS:
        value = options.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(
                f"lr_config.{key}: found {value!r}; expected a number. Write it without quotes."
            )
    if "step" not in options:
        return
    given = options["step"]
    steps = list(given) if isinstance(given, list | tuple) else [given]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in steps):
        raise ConfigError(
            f"lr_config.step: found {given!r}; expected a whole number above 0 or a list of them, such as "
            "[8, 11]. Write it without quotes."
        )


def _warmup(options: dict[str, Any]) -> Warmup | None:
    """Take the warm-up keys out of ``options``."""
    kind = options.pop("warmup", None)
    length = options.pop("warmup_iters", 0)
    ratio = options.pop("warmup_ratio", 0.1)
    by_epoch = bool(options.pop("warmup_by_epoch", False))
    if kind is None:
        return None
    if kind not in WARMUPS:
        raise unknown_name("lr_config.warmup", str(kind), WARMUPS)
    if length is None or not length > 0:
        raise ConfigError(
            f"lr_config.warmup_iters: found {length!r} with warmup={kind!r}; expected a number above 0."
        )
    if ratio is None or not 0 < ratio <= 1:
        raise ConfigError(f"lr_config.warmup_ratio: found {ratio!r}; expected a number in (0, 1].")
    return Warmup(kind=kind, length=int(length), ratio=float(ratio), by_epoch=by_epoch)
