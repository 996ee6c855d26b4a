"""Averaged weights: the formula, the layout in checkpoints, and the way back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from detector.engine.averaging import WeightAverage, stored_name
from detector.engine.hooks import AveragingPlan
from detector.engine.resume import host_state


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def shift(net: nn.Module, by: float) -> None:
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.add_(by)


def test_the_average_follows_by_the_share_of_each_iteration() -> None:
    net, plan = model(), AveragingPlan(momentum=0.0001, start="exp", length=2000)
    expected, average = net[0].weight.detach().clone(), WeightAverage(net, plan)
    for iteration in range(3):
        shift(net, 1.0)
        average.update(iteration)
        share = (1 - 0.0001) * math.exp(-(1 + iteration) / 2000) + 0.0001
        expected = expected * (1 - share) + net[0].weight.detach() * share
    with average.applied():
        assert torch.allclose(net[0].weight, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("plan", "iteration", "share"),
    [
        (AveragingPlan(momentum=0.1), 5, 0.1),
        (AveragingPlan(momentum=0.1, start="linear", length=9), 0, 0.1),
        (AveragingPlan(momentum=0.5, start="linear", length=9), 0, 1 / 9),
        (AveragingPlan(momentum=0.5, start="exp", length=1), 0, 0.5 * math.exp(-1) + 0.5),
    ],
)
def test_shares(plan: AveragingPlan, iteration: int, share: float) -> None:
    assert plan.share(iteration) == pytest.approx(share)


def test_updates_come_at_the_interval_only() -> None:
    net = model()
    average = WeightAverage(net, AveragingPlan(momentum=0.5, interval=2))
    before = net[0].weight.detach().clone()
    shift(net, 1.0)
    average.update(0)
    with average.applied():
        assert torch.equal(net[0].weight, before)
    average.update(1)
    with average.applied():
        assert torch.allclose(net[0].weight, before + 0.5)


def test_a_checkpoint_holds_both_and_gives_both_back() -> None:
    net = model()
    average = WeightAverage(net, AveragingPlan(momentum=0.5))
    shift(net, 2.0)
    average.update(0)
    state = host_state(net)
    average.write_into(state)
    trained = net[0].weight.detach().clone()
    assert torch.equal(state["ema_0_weight"], trained)
    assert torch.allclose(state["0.weight"], trained - 1.0)
    assert stored_name("backbone.conv1.weight") == "ema_backbone_conv1_weight"

    other = model()
    restored = WeightAverage(other, AveragingPlan(momentum=0.5))
    assert restored.restore(state)
    assert torch.equal(other[0].weight, trained)
    assert torch.equal(other[1].running_mean, net[1].running_mean)
    with restored.applied():
        assert torch.equal(other[0].weight, state["0.weight"])


def test_a_file_without_averages_starts_them() -> None:
    net = model()
    average = WeightAverage(net, AveragingPlan())
    shift(net, 1.0)
    assert not average.restore(host_state(net))
    now = net[0].weight.detach().clone()
    with average.applied():
        assert torch.equal(net[0].weight, now)


def test_parameters_alone() -> None:
    state = host_state(net := model())
    WeightAverage(net, AveragingPlan(skip_buffers=True)).write_into(state)
    assert {key for key in state if key.startswith("ema_")} == {
        "ema_0_weight", "ema_0_bias", "ema_1_weight", "ema_1_bias",
    }  # fmt: skip
