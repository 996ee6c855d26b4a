"""How a built model runs: half precision and ``torch.compile``, each in effect or refused with the reason.

Shapes: B images of H x W.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from detector.errors import ConfigError, MachineError
from detector.layers.deform_conv import DeformConv2d, ModulatedDeformConv2d
from detector.layers.sac import SAConv2d

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: pixels that the sides of the input are rounded up to when the network is compiled per size
BUCKET = 64
#: sizes that one compiled network may be specialised for; 800 x 1333 test images in both orientations have 34
SIZES = 64
#: exactly these layers keep their weights in half precision; a subclass may compute with them first
_HALVED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
#: these stay in float32 with all they hold: torchvision's operation has no bfloat16
_WHOLE = (DeformConv2d, ModulatedDeformConv2d, SAConv2d)

logger = logging.getLogger(__name__)


def accelerate(
    model: nn.Module, device: torch.device, *, precision: str = "fp32", compile: bool | str = False
) -> nn.Module:
    """Let a model run in half precision, compiled, both, or (the default) as it is.

    Args:
        model: in eval mode on ``device``; changed in place.
        device: where it runs.
        precision: 'fp32', 'fp16' or 'bf16': backbone and neck, and the convolutions and linear layers of the
            heads, but for deformable convolutions. Boxes, scores and masks are computed in float32.
        compile: compile backbone and neck; a string names torch's backend.

    Raises:
        ConfigError: an unknown precision or backend.
        MachineError: the device cannot do it.
    """
    if precision not in DTYPES:
        raise ConfigError(f"precision: found {precision!r}; expected one of {', '.join(DTYPES)}.")
    dtype = DTYPES[precision]
    if dtype != torch.float32:
        _check_half(device, precision)
        _halve(model, device, dtype)
    if compile:
        _compile(model, device, "inductor" if compile is True else str(compile))
    return model


def _check_half(device: torch.device, precision: str) -> None:
    """Refuse a precision that the device has only by emulation, or not at all."""
    if device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(False):
        raise MachineError(
            f"precision 'bf16': {torch.cuda.get_device_name(device)} computes no bfloat16 itself; expected a "
            "GPU that does (Ampere or newer). Use 'fp16'."
        )
    if device.type == "cpu" and precision == "fp16":
        raise MachineError(
            "precision 'fp16': on a CPU it is slower than float32 and no more precise than bfloat16 where it "
            "matters; expected a GPU. Use 'bf16' or 'fp32'."
        )


def _halve(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Backbone and neck under autocast, single layers of the heads on their own; outputs are float32."""
    parts: Any = model
    network = [part for part in (parts.backbone, parts.neck) if part is not None]
    own = {id(module) for part in network for module in part.modules()}
    whole = [module for module in model.modules() if isinstance(module, _WHOLE)]
    inside = {id(module) for top in whole for module in top.modules()}
    for top in whole:
        _wrap(top, lambda forward: _in_float(forward, device.type))
    for module in model.modules():
        if type(module) in _HALVED and id(module) not in inside:
            module.to(dtype)
            if id(module) not in own:
                _wrap(module, lambda forward: _in_half(forward, dtype))
    for part in network:
        _wrap(part, lambda forward: _under_autocast(forward, device.type, dtype))


def _wrap(module: nn.Module, wrapper: Callable[[Any], Any]) -> None:
    """Put a function around a module's forward; attributes and state dict stay as they are."""
    cast(Any, module).forward = wrapper(module.forward)


def _in_half(forward: Callable[..., Tensor], dtype: torch.dtype) -> Callable[..., Tensor]:
    """One layer in half precision between float32 ones."""

    def run(*inputs: Any, **options: Any) -> Tensor:
        return forward(*(_cast(value, dtype) for value in inputs), **options).float()

    return run


def _under_autocast(forward: Callable[..., Any], device: str, dtype: torch.dtype) -> Callable[..., Any]:
    """A part of the network under autocast, with float32 outputs."""

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


def _compile(model: nn.Module, device: torch.device, backend: str) -> None:
    """Compile ``extract_feat`` per input size; the pipeline's images are padded to multiples of BUCKET."""
    known = [*torch._dynamo.list_backends(), "eager", "aot_eager"]
    if backend not in known:
        raise ConfigError(
            f"compile: found the backend {backend!r}; torch has {', '.join(sorted(set(known)))}."
        )
    if backend == "inductor":
        _check_compiler(device)
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, SIZES)
    parts: Any = model
    parts.extract_feat = torch.compile(parts.extract_feat, backend=backend, dynamic=False)
    parts.input_multiple = BUCKET
    logger.info("backbone and neck are compiled on first use of each input size, by multiples of %d", BUCKET)


def _check_compiler(device: torch.device) -> None:
    """Raise MachineError where torch could not build the code it makes."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise MachineError(
            "compile: torch.compile makes C++ code for the CPU, and no c++, g++ or clang++ is on the PATH; "
            "expected one. Install a compiler (`apt-get install -y g++`), or leave compile out."
        )
    if device.type == "cuda" and not torch.utils._triton.has_triton():
        raise MachineError(
            "compile: torch.compile needs Triton for this GPU; found none that supports it. Install "
            "the triton of this torch build, or leave compile out."
        )
