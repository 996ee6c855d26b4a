"""A convolution and its batch norm as one convolution, for the time of a call.

In evaluation a batch norm is a factor and a shift per channel, which the weights of the convolution before it
can take up. They are folded at every call, so that parameters, state dict and hooks of the model stay as they
are. Measured on a ResNet-50 with an 800 x 1088 image on two cores: 0.84 instead of 0.95 s.

Shapes: B images, C_in and C_out channels, H x W feature map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.ops.recording import is_recorded


def convolve_and_normalise(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))``, (B, C_in, H, W) -> (B, C_out, H', W'); folded where that is faster.

    Folding changes the last bits: measured 1e-6 of the largest value after a ResNet-50.
    """
    if not _foldable(conv, norm, x):
        return norm(conv(x))
    assert isinstance(conv, nn.Conv2d)
    own: Any = norm  # its statistics and parameters are tensors here
    factor = (own.running_var + own.eps).rsqrt()
    factor = factor if own.weight is None else factor * own.weight
    shift = -own.running_mean * factor if conv.bias is None else (conv.bias - own.running_mean) * factor
    shift = shift if own.bias is None else shift + own.bias
    return conv._conv_forward(x, conv.weight * factor[:, None, None, None], shift)


def _foldable(conv: nn.Module, norm: nn.Module, x: Tensor) -> bool:
    """Whether it is inference in float32 on a CPU, with layers that nobody replaced, watches or records."""
    return (
        type(conv) is nn.Conv2d
        and isinstance(norm, _BatchNorm)
        and not norm.training
        and norm.running_mean is not None
        and x.is_cpu
        and x.dtype == conv.weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not any(_is_watched(layer) for layer in (conv, norm))
        and not is_recorded()
    )


def _is_watched(layer: nn.Module) -> bool:
    """Whether a hook wants the layer's inputs or outputs, or its forward was replaced."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))
