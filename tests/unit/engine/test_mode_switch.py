"""YOLOX's last epochs, from the hook to the data set and the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from detector.data.datasets.mixed import MultiImageMixDataset
from detector.engine.hooks import HookPlan, ModeSwitchPlan
from detector.engine.log import TrainLog
from detector.engine.mode_switch import mode_switch
from detector.engine.settings import RunPlan
from detector.errors import ConfigError

PLAN = RunPlan(by_epoch=True, total=5, hooks=HookPlan(mode_switch=ModeSwitchPlan(num_last_epochs=2)))


class Mixing(MultiImageMixDataset):
    """One that only remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def update_skip_type_keys(self, skip_type_keys: Any, *, from_epoch: int = 0) -> None:
        self.told.append((tuple(skip_type_keys), from_epoch))


class Repeated:
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset


def model() -> Any:
    net = nn.Module()
    net.bbox_head = nn.Module()
    net.bbox_head.use_l1 = False
    return net


def test_from_the_epoch_before_the_last_ones_also_when_resumed_after_it(tmp_path: Path) -> None:
    for first_seen in (0, 4):
        data, net, log = Mixing(), model(), TrainLog(tmp_path, f"run{first_seen}")
        begin = mode_switch(PLAN, Repeated(data), net, 50, 10, log)  # type: ignore[arg-type]
        assert data.told == [(("Mosaic", "RandomAffine", "MixUp"), 2)]
        seen = []
        for epoch in range(first_seen, 5):
            begin(epoch)
            seen.append(net.bbox_head.use_l1)
        assert seen == [epoch >= 2 for epoch in range(first_seen, 5)]
        assert (tmp_path / f"run{first_seen}.log").read_text().count("L1 loss") == 1


def test_without_the_hook_nothing_happens(tmp_path: Path) -> None:
    net = model()
    mode_switch(RunPlan(by_epoch=True, total=5), None, net, 50, 10, TrainLog(tmp_path, "run"))(4)  # type: ignore[arg-type]
    assert not net.bbox_head.use_l1


def test_a_model_or_data_set_that_cannot_is_refused(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, "run")
    with pytest.raises(ConfigError, match="use_l1"):
        mode_switch(PLAN, Mixing(), nn.Module(), 50, 10, log)
    with pytest.raises(ConfigError, match="MultiImageMixDataset"):
        mode_switch(PLAN, Repeated(None), model(), 50, 10, log)  # type: ignore[arg-type]
