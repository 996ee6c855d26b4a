import math

import pytest
import torch

from detector.errors import ConfigError
from detector.losses.focal import FocalLoss
from detector.losses.gfocal import DistributionFocalLoss, QualityFocalLoss
from detector.losses.ghm import GHMC, GHMR
from detector.losses.kd import KnowledgeDistillationKLDivLoss


def test_focal_by_hand():
    loss = FocalLoss(reduction="sum")(torch.zeros(1, 2), torch.tensor([1]))
    positive, negative = 0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)
    torch.testing.assert_close(loss, torch.tensor(positive + negative))


def test_focal_background_and_soft_targets():
    pred = torch.randn(3, 2)
    background, soft = FocalLoss()(pred, torch.tensor([2, 2, 2])), FocalLoss()(pred, torch.zeros(3, 2))
    torch.testing.assert_close(background, soft)


def test_focal_of_probabilities_is_that_of_logits():
    pred, labels = torch.randn(4, 3), torch.tensor([0, 3, 1, 2])
    torch.testing.assert_close(
        FocalLoss(activated=True)(pred.sigmoid(), labels), FocalLoss()(pred, labels), rtol=1e-4, atol=1e-5
    )


def test_focal_weights_of_rows_elements_and_flat():
    pred, labels, rows = torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([1.0, 0.5])
    by_row = FocalLoss()(pred, labels, rows)
    elements = rows[:, None].expand(2, 3).contiguous()
    torch.testing.assert_close(FocalLoss()(pred, labels, elements), by_row)
    torch.testing.assert_close(FocalLoss()(pred, labels, elements.flatten()), by_row)
    assert FocalLoss()(pred, labels, reduction="none").shape == (2, 3)


@pytest.mark.parametrize("kind", [FocalLoss, QualityFocalLoss, GHMC])
def test_softmax_form_is_refused(kind):
    with pytest.raises(ConfigError, match="use_sigmoid"):
        kind(use_sigmoid=False)


@pytest.mark.parametrize("loss", [FocalLoss(), GHMC(bins=3)])
def test_no_samples_cost_nothing(loss):
    pred = torch.zeros(0, 3, requires_grad=True)
    value = loss(pred, torch.zeros(0, dtype=torch.long), torch.zeros(0), avg_factor=1.0)
    value.backward()
    assert value.item() == 0


def test_quality_focal_by_hand():
    labels, quality = torch.tensor([0, 2]), torch.tensor([0.8, 0.3])
    loss = QualityFocalLoss(reduction="none")(torch.zeros(2, 2), (labels, quality))
    half = math.log(2) * 0.25
    torch.testing.assert_close(loss, torch.tensor([math.log(2) * 0.09 + half, 2 * half]))


def test_quality_focal_of_probabilities():
    pred, target = torch.randn(3, 2), (torch.tensor([0, 1, 2]), torch.tensor([0.2, 0.9, 0.0]))
    got = QualityFocalLoss(activated=True)(pred.sigmoid(), target)
    torch.testing.assert_close(got, QualityFocalLoss()(pred, target), rtol=1e-4, atol=1e-5)


def test_distribution_focal_splits_between_two_bins():
    pred = torch.randn(1, 5)
    minus_log = -pred.log_softmax(dim=1)[0]
    got = DistributionFocalLoss(reduction="sum")(pred, torch.tensor([2.25]))
    torch.testing.assert_close(got, 0.75 * minus_log[2] + 0.25 * minus_log[3])


def test_ghmc_gives_every_filled_bin_the_same_weight():
    pred = torch.tensor([[-3.0], [-3.0], [0.1]])  # gradient lengths 0.047 twice and 0.525: two of two bins
    loss = GHMC(bins=2)(pred, torch.ones(3, dtype=torch.long), torch.ones(3))
    entropy = torch.nn.functional.softplus(pred[:, 0])
    weights = torch.tensor([3 / 2 / 2, 3 / 2 / 2, 3 / 1 / 2])
    torch.testing.assert_close(loss, (entropy * weights).sum() / 3)


def test_ghmc_leaves_out_rows_without_weight():
    pred = torch.tensor([[-3.0], [2.0]])
    labels, alone = torch.tensor([1, 0]), GHMC(bins=4)
    got = alone(pred, labels, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(got, alone(pred[:1], labels[:1], torch.ones(1)))


def test_ghm_moving_counts_are_buffers():
    loss = GHMR(bins=4, momentum=0.5)
    assert set(loss.state_dict()) == {"edges", "acc_sum"}
    loss(torch.full((2, 4), 5.0), torch.zeros(2, 4), torch.ones(2, 4))
    assert loss.acc_sum.tolist() == [0, 0, 0, 4]
    assert loss.edges[-1] == 1e3


def test_ghmr_by_hand():
    loss = GHMR(mu=0.3, bins=1)(torch.tensor([[0.4, 0, 0, 0]]), torch.zeros(1, 4), torch.ones(1, 4))
    torch.testing.assert_close(loss, torch.tensor(0.2 / 4))


def test_distillation_is_zero_for_equal_logits_and_stops_at_the_teacher():
    student, teacher = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    loss = KnowledgeDistillationKLDivLoss(T=2)
    assert abs(loss(student, student).item()) < 1e-6
    loss(student, teacher, torch.ones(3), avg_factor=3.0).backward()
    assert student.grad is not None
    assert teacher.grad is None
