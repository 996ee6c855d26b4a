import math

import pytest
import torch

from detector.losses.cross_entropy import CrossEntropyLoss, accuracy
from detector.losses.iou import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss
from detector.losses.smooth_l1 import L1Loss, SmoothL1Loss


def test_softmax_by_hand():
    loss = CrossEntropyLoss(loss_weight=2.0)(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(loss, torch.tensor(2 * math.log(3)))


def test_sigmoid_treats_background_as_all_zero():
    pred = torch.tensor([[2.0], [-1.0]])
    loss = CrossEntropyLoss(use_sigmoid=True)(pred, torch.tensor([0, 1]), torch.ones(2), avg_factor=2)
    wanted = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-1.0))) / 2
    torch.testing.assert_close(loss, torch.tensor(wanted), rtol=1e-5, atol=1e-6)


def test_avg_factor_replaces_the_number_of_rows():
    pred, target = torch.randn(6, 3), torch.randint(0, 3, (6,))
    loss = CrossEntropyLoss()
    torch.testing.assert_close(loss(pred, target, avg_factor=3), loss(pred, target) * 2)


def test_ignored_rows_cost_nothing():
    pred = torch.randn(2, 3)
    loss = CrossEntropyLoss(ignore_index=255, avg_non_ignore=True)
    torch.testing.assert_close(
        loss(pred, torch.tensor([1, 255])), CrossEntropyLoss()(pred[:1], torch.tensor([1]))
    )


def test_mask_loss_uses_the_own_channel():
    pred = torch.zeros(1, 2, 2, 2)
    pred[0, 0] = 100.0
    loss = CrossEntropyLoss(use_mask=True)
    assert loss.mask_loss(pred, torch.ones(1, 2, 2), torch.tensor([0])) < 1e-6
    torch.testing.assert_close(
        loss.mask_loss(pred, torch.ones(1, 2, 2), torch.tensor([1])), torch.tensor(math.log(2))
    )


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [(L1Loss(), 1.25), (SmoothL1Loss(), (1.5 + 0.125) / 2), (SmoothL1Loss(beta=4.0), (0.5 + 0.03125) / 2)],
)
def test_absolute_losses_by_hand(loss, wanted):
    assert loss(torch.tensor([[2.0, 0.5]]), torch.zeros(1, 2)).item() == pytest.approx(wanted)


BOX = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
NEAR = torch.tensor([[5.0, 0.0, 15.0, 10.0]])


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        (IoULoss(), math.log(3)),
        (IoULoss(mode="linear"), 2 / 3),
        (GIoULoss(), 2 / 3),
        (DIoULoss(), 2 / 3 + 25 / (225 + 100)),
        (CIoULoss(), 2 / 3 + 25 / (225 + 100)),
    ],
    ids=["log", "linear", "giou", "diou", "ciou"],
)
def test_overlap_losses_by_hand(loss, wanted):
    assert loss(BOX, NEAR, torch.ones(1, 4), avg_factor=1).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("loss", [IoULoss(), GIoULoss(), DIoULoss(), CIoULoss(), BoundedIoULoss()])
def test_equal_boxes_cost_nothing_and_no_boxes_are_fine(loss):
    assert loss(BOX, BOX, torch.ones(1, 4), avg_factor=1).item() == pytest.approx(0, abs=1e-4)
    empty = torch.zeros(0, 4, requires_grad=True)
    value = loss(empty, torch.zeros(0, 4), torch.zeros(0, 4), avg_factor=1)
    value.backward()
    assert value.item() == 0
    assert empty.grad is not None


def test_accuracy_in_percent():
    pred = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert accuracy(pred, torch.tensor([0, 1, 1, 1])).item() == 75.0
    assert accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).item() == 0.0
