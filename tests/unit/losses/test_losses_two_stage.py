"""Losses of Libra R-CNN and of mask scoring."""

from __future__ import annotations

import math

import pytest
import torch

from detector.losses.balanced_l1 import BalancedL1Loss
from detector.losses.mse import MSELoss


def test_balanced_l1_by_hand() -> None:
    loss = BalancedL1Loss(reduction="none")
    b = math.exp(3) - 1
    low = 0.5 / b * (b * 0.5 + 1) * math.log(b * 0.5 + 1) - 0.5 * 0.5
    high = 1.5 * 2 + 1.5 / b - 0.5
    found = loss(torch.tensor([[0.5, 2.0, 0.0]]), torch.zeros(1, 3))
    assert found[0].tolist() == pytest.approx([low, high, 0.0], abs=1e-6)


def test_balanced_l1_parts_meet_at_beta() -> None:
    loss = BalancedL1Loss(reduction="none")
    below, above = loss(torch.tensor([1 - 1e-6, 1 + 1e-6]), torch.zeros(2)).tolist()
    assert below == pytest.approx(above, abs=1e-4)


def test_balanced_l1_of_nothing_keeps_the_graph() -> None:
    pred = torch.zeros(0, 4, requires_grad=True)
    value = BalancedL1Loss()(pred, torch.zeros(0, 4), avg_factor=1.0)
    value.backward()
    assert value.item() == 0


def test_mse() -> None:
    loss = MSELoss(loss_weight=0.5)
    assert loss(torch.tensor([1.0, 3.0]), torch.zeros(2)).item() == pytest.approx(2.5)
    weighted = loss(torch.tensor([1.0, 3.0]), torch.zeros(2), torch.tensor([1.0, 0.0]), avg_factor=1.0)
    assert weighted.item() == pytest.approx(0.5)
