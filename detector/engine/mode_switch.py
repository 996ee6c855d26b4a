"""YOLOX's last epochs: no mixed images any more, and an L1 loss on the boxes.

Checked against mmdet 2.28.2 core/hook/yolox_mode_switch_hook.py, which forgets the switch when a run is
resumed after it; here it goes by the number of the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from detector.data.datasets.mixed import MultiImageMixDataset
from detector.data.datasets.source import SampleSource
from detector.engine.log import TrainLog
from detector.engine.settings import RunPlan
from detector.errors import ConfigError


def mode_switch(
    plan: RunPlan,
    dataset: SampleSource,
    model: nn.Module,
    max_iterations: int,
    epoch_length: int,
    log: TrainLog,
) -> Callable[[int], None]:
    """Prepare the switch, if the plan has one, before the loader starts its workers.

    Args:
        plan: of the run.
        dataset: of the training; told from which epoch on the mixing steps are left out.
        model: whose head gets the L1 loss.
        max_iterations: of the run.
        epoch_length: iterations of an epoch.
        log: gets a line at the switch.

    Returns:
        what is to be called with every epoch, from 0, before its first step.

    Raises:
        ConfigError: no mixing data set, or a head without that loss.
    """
    settings = plan.hooks.mode_switch
    if settings is None:
        return lambda epoch: None
    head: Any = getattr(model, "bbox_head", None)
    if not hasattr(head, "use_l1"):
        raise ConfigError(
            f"custom_hooks (YOLOXModeSwitchHook): the model's bbox_head is {type(head).__name__}; expected "
            "one with use_l1, such as YOLOXHead. Remove the hook."
        )
    first = settings.first_epoch(math.ceil(max_iterations / epoch_length))
    _mixing(dataset).update_skip_type_keys(settings.skip_type_keys, from_epoch=first)

    def begin(epoch: int) -> None:
        if epoch >= first and not head.use_l1:
            head.use_l1 = True
            left_out = ", ".join(settings.skip_type_keys)
            log.text(f"epoch {epoch + 1}: from here on without {left_out}, and with an L1 loss")

    return begin


def _mixing(dataset: Any) -> MultiImageMixDataset:
    """The mixing data set inside wrappers."""
    inner = dataset
    while inner is not None and not isinstance(inner, MultiImageMixDataset):
        inner = getattr(inner, "dataset", None)
    if inner is None:
        raise ConfigError(
            f"custom_hooks (YOLOXModeSwitchHook): data.train is a {type(dataset).__name__}; expected a "
            "MultiImageMixDataset, whose mixing it ends. Remove the hook."
        )
    return inner
