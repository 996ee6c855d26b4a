"""Counts that losses divide by, averaged over the processes of distributed training."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def process_mean(value: float | Tensor, *, like: Tensor, least: float = 1.0) -> Tensor:
    """Mean of a scalar over all processes, at least ``least``; without a process group the scalar itself.

    Every process must call it equally often. No gradient flows through it. ``like`` gives device and dtype.

    Source: checked against mmdet 2.28.2 core/utils/dist_utils.py reduce_mean.
    """
    mean = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach().clone()
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        distributed.all_reduce(mean.div_(distributed.get_world_size()))
    return mean.clamp(min=least)
