"""How a built model runs: half precision and ``torch.compile``, each in effect or refused with the reason.

Shapes: B images of H x W.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from detector.engine.precision import read_precision
from detector.errors import ConfigError, MachineError
from detector.layers.folding import fold_batch_norms
from detector.layers.half import DTYPES, computes_bf16, halve, require_bf16

#: pixels that the sides of the input are rounded up to when the network is compiled per size
BUCKET = 64
#: sizes that one compiled network may be specialised for; 800 x 1333 test images in both orientations have 34
SIZES = 64
logger = logging.getLogger(__name__)


def accelerate(
    model: nn.Module,
    device: torch.device,
    *,
    precision: str = "fp32",
    compile: bool | str = False,
    fuse_conv_bn: bool = False,
) -> nn.Module:
    """Let a model run in half precision, compiled, both, or (the default) as it is.

    Args:
        model: in eval mode on ``device``; changed in place.
        device: where it runs.
        precision: 'fp32', 'fp16' or 'bf16': backbone and neck, and the convolutions and linear layers of the
            heads, but for deformable convolutions. Boxes, scores and masks are computed in float32.
        compile: compile backbone and neck; a string names torch's backend.
        fuse_conv_bn: fold batch norms into the convolutions before them for good.

    Raises:
        ConfigError: an unknown precision or backend.
        MachineError: the device cannot do it.
    """
    if precision not in DTYPES:
        raise ConfigError(f"precision: found {precision!r}; expected one of {', '.join(DTYPES)}.")
    dtype = DTYPES[precision]
    if fuse_conv_bn:
        logger.info("%d batch norms are folded into the convolutions before them", fold_batch_norms(model))
    if dtype != torch.float32:
        _check_half(device, precision)
        halve(model, device, dtype, weights=True)
    if compile:
        _compile(model, device, "inductor" if compile is True else str(compile))
    return model


def accelerate_for_test(
    model: nn.Module, device: torch.device, settings: Mapping[str, Any], *, fuse_conv_bn: bool = False
) -> nn.Module:
    """A loaded model as ``detector test`` runs it: in the precision of its config, and folded where asked.

    Args:
        model: in eval mode on ``device``; changed in place.
        device: where it runs.
        settings: the config's top level: ``fp16`` (as in the reference, on a GPU only) or ``precision``.
        fuse_conv_bn: as ``accelerate`` takes it.
    """
    precision = precision_on(device, settings)
    if precision != "fp32":
        logger.info("the config asks for %s: the network runs in it, boxes and masks in fp32", precision)
    return accelerate(model, device, precision=precision, fuse_conv_bn=fuse_conv_bn)


def precision_on(device: torch.device, settings: Mapping[str, Any]) -> str:
    """The precision that a config asks for where the device has it, else 'fp32', which is more exact."""
    name = read_precision(settings).name
    if name == "bf16":
        return name if computes_bf16(device) else "fp32"
    return "fp32" if device.type != "cuda" else name


def _check_half(device: torch.device, precision: str) -> None:
    """Refuse a precision that the device has only by emulation, or not at all."""
    if precision == "bf16":
        require_bf16(device)
    if device.type == "cpu" and precision == "fp16":
        raise MachineError(
            "precision 'fp16': on a CPU it is slower than float32 and no more precise than bfloat16 where it "
            "matters; expected a GPU. Use 'bf16' or 'fp32'."
        )


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
