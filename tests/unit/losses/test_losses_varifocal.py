"""Varifocal loss and the mean over processes."""

import pytest
import torch

from detector.errors import ConfigError
from detector.losses.process_mean import process_mean
from detector.losses.varifocal import VarifocalLoss

LOG2 = torch.log(torch.tensor(2.0)).item()


def test_positives_count_by_quality_and_negatives_by_confidence():
    pred, target = torch.zeros(1, 2), torch.tensor([[0.8, 0.0]])
    assert VarifocalLoss(reduction="none")(pred, target)[0].tolist() == pytest.approx(
        [0.8 * LOG2, 0.75 * 0.25 * LOG2]
    )
    plain = VarifocalLoss(iou_weighted=False, loss_weight=2.0, reduction="sum")
    assert plain(pred, target).item() == pytest.approx(2 * (LOG2 + 0.75 * 0.25 * LOG2))
    assert VarifocalLoss()(pred[:0], target[:0], avg_factor=1.0).item() == 0


def test_only_the_sigmoid_form_exists():
    with pytest.raises(ConfigError, match="use_sigmoid"):
        VarifocalLoss(use_sigmoid=False)


def test_mean_of_one_process_is_bounded_and_carries_no_gradient():
    value = torch.tensor(3.0, requires_grad=True)
    found = process_mean(value, like=value)
    assert found.item() == 3
    assert not found.requires_grad
    assert process_mean(0, like=value).item() == 1
    assert process_mean(0, like=value, least=0.5).item() == 0.5
