"""Dice, squared difference and the weights of prime samples."""

from __future__ import annotations

import pytest
import torch

from detector.errors import ConfigError
from detector.losses.dice import DiceLoss
from detector.losses.mse import MSELoss
from detector.losses.pisa import carl_loss, prime_weights


def test_squared_difference_with_a_column_of_weights() -> None:
    loss = MSELoss(reduction="sum", loss_weight=2.0)(
        torch.tensor([[1.0, 2], [5, 5]]), torch.zeros(2, 2), torch.tensor([[1.0], [0]])
    )
    assert loss.item() == 10


def test_dice_by_hand() -> None:
    own, wanted = torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[1, 0, 0, 0]])
    loss = DiceLoss(activate=False, eps=0.0)(own, wanted)
    assert loss.item() == pytest.approx(1 - 2 / 3)
    assert DiceLoss(activate=False, eps=0.0, naive_dice=True)(own, wanted).item() == pytest.approx(1 - 2 / 3)


def test_dice_refuses_logits_without_a_sigmoid() -> None:
    with pytest.raises(ConfigError, match="use_sigmoid"):
        DiceLoss(use_sigmoid=False)


def test_prime_weights_follow_the_rank_and_keep_the_total() -> None:
    weights = prime_weights(
        torch.ones(3),
        torch.tensor([0.5, 0.9, 0.7]),
        torch.tensor([1, 1, 1]),
        torch.tensor([0, 0, 4]),
        torch.ones(3),
        k=1.0,
        bias=0.0,
    )
    # the best of each object first (0.9, then 0.7 of the other object), then the second best of object 0
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 1.0, 2 / 3]) * 1.5)
    assert (
        len(prime_weights(*[torch.zeros(0)] * 2, *[torch.zeros(0).long()] * 2, torch.zeros(0), k=2, bias=0))
        == 0
    )


def test_carl_weighs_boxes_by_class_score() -> None:
    losses = torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2]])
    scores = torch.tensor([0.25, 0.75], requires_grad=True)
    loss = carl_loss(scores, losses, k=1.0, bias=0.0, avg_factor=2)
    assert loss.item() == pytest.approx((4 * 0.5 + 8 * 1.5) / 2)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.abs().sum() > 0
    assert carl_loss(scores[:0], losses[:0], k=1.0, bias=0.2, avg_factor=1).item() == 0
