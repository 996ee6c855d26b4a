"""Half precision for the parts of a detector that stand it: functions around the forwards of its modules.

Boxes, scores, masks and losses stay in float32. Attributes and the state dict of the model do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from detector.errors import MachineError
from detector.layers.deform_conv import DeformConv2d, ModulatedDeformConv2d
from detector.layers.sac import SAConv2d

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: exactly these layers compute in half precision; a subclass may compute with their weights first
HALVED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
#: these stay in float32 with all they hold: torchvision's operation has no bfloat16
WHOLE = (DeformConv2d, ModulatedDeformConv2d, SAConv2d)


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has bfloat16 itself, and not by emulation."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(False)


def require_bf16(device: torch.device) -> None:
    """Refuse bfloat16 where it is only emulated.

    Raises:
        MachineError: with the device's name.
    """
    if not computes_bf16(device):
        raise MachineError(
            f"precision 'bf16': {torch.cuda.get_device_name(device)} computes no bfloat16 itself; expected a "
            "GPU that does (Ampere or newer). Use 'fp16'."
        )


def halve(model: nn.Module, device: torch.device, dtype: torch.dtype, *, weights: bool = False) -> None:
    """Backbone and neck under autocast, single layers of the heads on their own; outputs are float32.

    Args:
        model: a detector on ``device``; changed in place.
        device: where it runs.
        dtype: float16 or bfloat16.
        weights: keep the layers' weights in half precision too, which training cannot.
    """
    parts: Any = model
    named = (getattr(parts, "backbone", None), getattr(parts, "neck", None))
    network = [part for part in named if part is not None]
    own = {id(module) for part in network for module in part.modules()}
    whole = [module for module in model.modules() if isinstance(module, WHOLE)]
    inside = {id(module) for top in whole for module in top.modules()}
    for top in whole:
        _wrap(top, lambda forward: _in_float(forward, device.type))
    single = _in_half if weights else _in_autocast
    for module in model.modules():
        if type(module) in HALVED and id(module) not in inside:
            if weights:
                module.to(dtype)
            if id(module) not in own:
                _wrap(module, lambda forward: single(forward, device.type, dtype))
    for part in network:
        _wrap(part, lambda forward: _in_autocast(forward, device.type, dtype))


def _wrap(module: nn.Module, wrapper: Callable[[Any], Any]) -> None:
    """Put a function around a module's forward."""
    cast(Any, module).forward = wrapper(module.forward)


def _in_half(forward: Callable[..., Tensor], _device: str, dtype: torch.dtype) -> Callable[..., Tensor]:
    """One layer with weights in half precision between float32 ones."""

    def run(*inputs: Any, **options: Any) -> Tensor:
        return forward(*(_cast(value, dtype) for value in inputs), **options).float()

    return run


def _in_autocast(forward: Callable[..., Any], device: str, dtype: torch.dtype) -> Callable[..., Any]:
    """A module under autocast, with float32 outputs."""

    def run(*inputs: Any, **options: Any) -> Any:
        with torch.autocast(device, dtype=dtype):
            outputs = forward(*inputs, **options)
        return _cast(outputs, torch.float32)

    return run


def _in_float(forward: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    """A layer in float32, whatever surrounds it."""

    def run(*inputs: Any, **options: Any) -> Tensor:
        with torch.autocast(device, enabled=False):
            return forward(*(_cast(value, torch.float32) for value in inputs), **options)

    return run


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors of nested sequences in another precision."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_cast(item, dtype) for item in value)
    return value
