"""Running statistics of batch norms in several processes, each of which sees other images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _NormBase

from detector.engine import distributed


def average_norm_statistics(model: nn.Module) -> None:
    """Give every process the mean of all processes' running statistics; nothing happens in one process."""
    if distributed.world_size() == 1:
        return
    for value in _statistics(model):
        value.copy_(distributed.reduce_mean(value))


def share_norm_statistics(model: nn.Module) -> None:
    """Give every process those of process 0, so that all evaluate one model."""
    if distributed.world_size() == 1:
        return
    for value in _statistics(model):
        dist.broadcast(value, src=0)


def _statistics(model: nn.Module) -> Iterator[Tensor]:
    """Running means and variances, in the order of the modules."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _NormBase) and module.track_running_stats:
                yield from (v for v in (module.running_mean, module.running_var) if v is not None)
