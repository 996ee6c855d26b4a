"""Training in half precision: which parts compute in it, and the scale that keeps float16 gradients alive.

Weights, losses and the optimizer stay in float32. Checked against mmcv 1.7.2 ``Fp16OptimizerHook`` for the
meaning of ``fp16=dict(loss_scale=…)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detector.engine.checks import check_keys, unknown_name
from detector.errors import ConfigError
from detector.layers.half import DTYPES, halve, require_bf16

FIXED_SCALE = 512.0  # the reference's, where fp16 names none
SCALE_KEYS = ("init_scale", "growth_factor", "backoff_factor", "growth_interval", "enabled")


@dataclass(frozen=True)
class PrecisionPlan:
    """What a run computes in.

    Attributes:
        name: 'fp32', 'fp16' or 'bf16'.
        loss_scale: of float16: a number, 'dynamic', or arguments of ``torch.amp.GradScaler``.
    """

    name: str = "fp32"
    loss_scale: float | str | dict[str, Any] = "dynamic"


def read_precision(cfg: Mapping[str, Any]) -> PrecisionPlan:
    """Plan of a merged config: ``precision``, or ``fp16=dict(loss_scale=…)`` as in the reference.

    Raises:
        ConfigError: an unknown precision, or a loss scale that is none.
    """
    options = dict(cfg.get("optimizer_config") or {})
    half = cfg.get("fp16")
    if str(options.get("type", "")).endswith("Fp16OptimizerHook"):
        half = {"loss_scale": options.get("loss_scale", FIXED_SCALE)}
    name = cfg.get("precision") or ("fp32" if half is None else "fp16")
    if name not in DTYPES:
        raise unknown_name("precision", str(name), DTYPES)
    if half is not None and not isinstance(half, Mapping):
        raise ConfigError(
            f"fp16: found {half!r}; expected dict(loss_scale='dynamic') or dict(loss_scale=512.)"
        )
    check_keys("fp16", half or {}, ("loss_scale",))
    scale = "dynamic" if half is None else half.get("loss_scale", FIXED_SCALE)
    if isinstance(scale, Mapping):
        check_keys("fp16.loss_scale", scale, SCALE_KEYS)
        scale = dict(scale)
    elif scale != "dynamic" and (isinstance(scale, bool) or not isinstance(scale, int | float) or scale <= 0):
        raise ConfigError(
            f"fp16.loss_scale: found {scale!r}; expected a number above 0, 'dynamic', or a dict of "
            f"{', '.join(SCALE_KEYS)}."
        )
    return PrecisionPlan(name=str(name), loss_scale=scale)


def fitting(
    plan: PrecisionPlan, device: torch.device, *, asked: bool, note: Callable[[str], None]
) -> PrecisionPlan:
    """The plan that the device can follow.

    Args:
        plan: what the config says.
        device: where the run computes.
        asked: whether ``precision`` asks by name; a published config's ``fp16`` is float32 on a CPU.
        note: gets the line that says so.

    Raises:
        MachineError: bfloat16 on a GPU that has none.
    """
    if plan.name == "bf16":
        require_bf16(device)
    if plan.name == "fp16" and device.type == "cpu" and not asked:
        note(
            "fp16: a CPU computes float16 slower than float32, so this run is float32; precision=bf16 is the "
            "half precision that pays on newer CPUs, precision=fp16 insists"
        )
        return PrecisionPlan()
    return plan


def use_precision(model: nn.Module, device: torch.device, plan: PrecisionPlan) -> LossScaler | None:
    """Let a model in training compute in the plan's precision; its weights stay in float32.

    Args:
        model: on its device; changed in place, its state dict is not.
        device: where it runs.
        plan: what to compute in.

    Returns:
        the loss scale of float16, None otherwise.
    """
    if plan.name == "fp32":
        return None
    halve(model, device, DTYPES[plan.name])
    return LossScaler(device, plan.loss_scale) if plan.name == "fp16" else None


class LossScaler:
    """The factor on the loss that keeps small float16 gradients from vanishing.

    A step whose gradients are not finite is left out, and a dynamic scale is halved.

    Args:
        device: where the losses are.
        loss_scale: a number that stays, 'dynamic', or arguments of ``torch.amp.GradScaler``.
    """

    def __init__(self, device: torch.device, loss_scale: float | str | Mapping[str, Any] = "dynamic") -> None:
        self.fixed = float(loss_scale) if isinstance(loss_scale, int | float) else None
        options: dict[str, Any] = dict(loss_scale) if isinstance(loss_scale, Mapping) else {}
        if self.fixed is not None:
            options["init_scale"] = self.fixed
        self._scaler = torch.amp.GradScaler(device.type, **options)
        self.left_out = 0  # steps in a row

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring the gradients back to their own size, for clipping."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, *, finite: bool) -> None:
        """Update the parameters unless the gradients are not ``finite``; then adapt the scale."""
        self.left_out = 0 if finite else self.left_out + 1
        self._scaler.step(optimizer)
        self._scaler.update(self.fixed)

    @property
    def value(self) -> float:
        """The present scale."""
        return float(self._scaler.get_scale())

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"scaler": self._scaler.state_dict(), "left_out": self.left_out}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with the scale that ``state`` came from."""
        self._scaler.load_state_dict(dict(state["scaler"]))
        self.left_out = int(state["left_out"])
