import torch

from detector.checkpoint.load import load_state
from detector.checkpoint.upgrades import upgrade, weight_standards
from detector.layers.conv_aws import ConvAWS2d

WEIGHT = torch.tensor([[1.0, 3.0], [4.0, 4.0]]).reshape(2, 2, 1, 1)  # means 2 and 4, variances 2 and 0


def test_spread_and_mean_of_a_plain_weight():
    wanted = ["conv1.weight", "conv1.weight_gamma", "conv1.weight_beta", "fc.weight"]
    state = {"conv1.weight": WEIGHT, "fc.weight": WEIGHT[..., 0, 0]}
    found = weight_standards(state, wanted)
    assert set(found) == {"conv1.weight_gamma", "conv1.weight_beta"}
    torch.testing.assert_close(
        found["conv1.weight_gamma"].flatten(), torch.tensor([2 + 1e-5, 1e-5]).sqrt(), rtol=1e-6, atol=0
    )
    assert found["conv1.weight_beta"].shape == (2, 1, 1, 1)
    assert found["conv1.weight_beta"].flatten().tolist() == [2.0, 4.0]


def test_own_values_of_a_file_stay():
    state = {"weight": WEIGHT, "weight_gamma": torch.ones(2, 1, 1, 1), "weight_beta": torch.ones(2, 1, 1, 1)}
    result, renamed = upgrade(state, list(state))
    assert not renamed
    assert all(result[key] is state[key] for key in state)
    assert weight_standards({}, list(state)) == {}


def test_a_plain_checkpoint_leaves_the_convolution_as_it_was():
    torch.manual_seed(0)
    plain, conv = torch.nn.Conv2d(3, 4, 3, bias=False), ConvAWS2d(3, 4, 3, bias=False)
    report = load_state(conv, plain.state_dict())
    assert report.complete
    x = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(conv(x), plain(x))
