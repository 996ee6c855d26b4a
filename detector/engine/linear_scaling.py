"""The linear scaling rule: a rate that was found for one batch size, for another.

Goyal et al., 2017, arXiv:1706.02677. Checked against mmdet 2.28.2 apis/train.py ``auto_scale_lr``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from detector.config import Config
from detector.engine import distributed


def scale_rate(config: Config, *, enabled: bool, note: Callable[[str], None]) -> Config:
    """The config with its rate scaled by the batch size, if asked for; else a line when the batch differs."""
    setting = config.data.get("auto_scale_lr") or {}
    base = setting.get("base_batch_size")
    optimizer = config.data.get("optimizer") or {}
    if base is None or not isinstance(optimizer.get("lr"), int | float):
        if enabled:
            note(
                "auto-scale-lr: the config has no auto_scale_lr.base_batch_size or no rate; nothing is scaled"
            )
        return config
    batch = distributed.world_size() * int(config.data["data"]["train_dataloader"]["samples_per_gpu"])
    scaled = optimizer["lr"] * batch / base
    if not (enabled or setting.get("enable")):
        if batch != base:
            note(
                f"batch {batch} (base {base}): the rate stays {optimizer['lr']:g}; --auto-scale-lr would "
                f"make it {scaled:g}"
            )
        return config
    note(f"auto-scale-lr: {optimizer['lr']:g} -> {scaled:g} (batch {batch}, base {base})")
    return replace(config, data={**config.data, "optimizer": {**optimizer, "lr": scaled}})
