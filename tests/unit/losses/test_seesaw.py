import math

import pytest
import torch
from torch.nn import functional

from detector.errors import ConfigError
from detector.losses.class_scores import ClassScores
from detector.losses.seesaw import SeesawLoss


def test_counts_grow_with_every_call():
    loss = SeesawLoss(num_classes=3)
    for _ in range(2):
        loss(torch.zeros(4, 5), torch.tensor([0, 0, 2, 3]))
    assert loss.cum_samples.tolist() == [4, 0, 2, 2]


def test_without_factors_it_is_cross_entropy():
    torch.manual_seed(0)
    scores, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 3, 1])
    found = SeesawLoss(num_classes=3, p=0, q=0)(scores, labels, avg_factor=6)
    positive = labels < 3
    classes = functional.cross_entropy(scores[positive, :3], labels[positive], reduction="sum") / 6
    objectness = functional.cross_entropy(scores[:, 3:], (~positive).long())
    torch.testing.assert_close(found["loss_cls_classes"], classes)
    torch.testing.assert_close(found["loss_cls_objectness"], objectness)


def test_rare_classes_are_punished_less():
    loss = SeesawLoss(num_classes=2, p=1, q=0, return_dict=True)
    loss.cum_samples[:2] = torch.tensor([7.0, 2.0])  # the call adds one to class 0: ratio 2 / 8
    found = loss(torch.zeros(1, 4), torch.tensor([0]))
    assert found["loss_cls_classes"].item() == pytest.approx(math.log(1 + 0.25), rel=1e-5)


def test_mistakes_are_punished_more():
    loss = SeesawLoss(num_classes=2, p=0, q=2)
    scores = torch.tensor([[0.0, math.log(3), 0, 0]])  # class 1 is three times as likely: factor 9
    found = loss(scores, torch.tensor([0]))
    assert found["loss_cls_classes"].item() == pytest.approx(math.log(1 + 3 * 9), rel=1e-5)


def test_probabilities_sum_to_one():
    loss = SeesawLoss(num_classes=3)
    got = loss.activate(torch.tensor([[0.0, 0, 0, math.log(3), 0]]))
    torch.testing.assert_close(got, torch.tensor([[0.25, 0.25, 0.25, 0.25]]))


def test_accuracies():
    scores = torch.tensor([[5.0, 0, 1, 0], [5, 0, 0, 1], [0, 5, 1, 0]])
    got = SeesawLoss(num_classes=2).accuracies(scores, torch.tensor([0, 2, 0]))
    assert (got["acc_objectness"].item(), got["acc_classes"].item()) == (100, 50)


@pytest.mark.parametrize("labels", [[], [2, 2]])
def test_without_positives_gradients_exist(labels):
    scores = torch.zeros(len(labels), 4, requires_grad=True)
    found = SeesawLoss(num_classes=2)(scores, torch.tensor(labels, dtype=torch.long), avg_factor=1)
    sum(found.values()).backward()
    assert found["loss_cls_classes"].item() == 0
    assert scores.grad is not None


def test_the_sum_of_both_parts():
    scores, labels = torch.randn(4, 4), torch.tensor([0, 1, 2, 2])
    parts = SeesawLoss(num_classes=2)(scores, labels)
    torch.testing.assert_close(
        SeesawLoss(num_classes=2, return_dict=False)(scores, labels), sum(parts.values())
    )


def test_errors():
    assert isinstance(SeesawLoss(num_classes=2), ClassScores)
    with pytest.raises(ConfigError, match="use_sigmoid"):
        SeesawLoss(use_sigmoid=True)
    with pytest.raises(ConfigError, match="make them equal"):
        SeesawLoss(num_classes=2).channels(3)
