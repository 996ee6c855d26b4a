import torch

from detector.layers.normed import NormedConv2d, NormedLinear, make_last_conv, make_linear
from detector.structures.specs import PredictorSpec


def test_linear_is_a_scaled_cosine():
    layer = NormedLinear(3, 2, spec=PredictorSpec(type="NormedLinear", tempearture=20))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 0, 0], [0, 3, 4]]))
        layer.bias.copy_(torch.tensor([1.0, 0]))
        got = layer(torch.tensor([[5.0, 0, 0], [0, 0, 0]]))
    torch.testing.assert_close(got, torch.tensor([[21.0, 0], [1, 0]]), rtol=1e-5, atol=1e-4)


def test_convolution_of_one_pixel_is_the_linear_layer():
    torch.manual_seed(0)
    spec = PredictorSpec(type="NormedConv2d", tempearture=7, power=0.5)
    conv, linear = NormedConv2d(4, 3, 1, spec=spec), NormedLinear(4, 3, spec=spec)
    linear.load_state_dict({k: v.reshape(3, -1).squeeze() for k, v in conv.state_dict().items()})
    x = torch.randn(2, 4, 1, 1)
    torch.testing.assert_close(conv(x).flatten(1), linear(x.flatten(1)))


def test_one_length_for_the_whole_kernel():
    spec = PredictorSpec(type="NormedConv2d", tempearture=1, norm_over_kernel=True)
    conv = NormedConv2d(1, 1, 2, spec=spec)
    with torch.no_grad():
        conv.weight.fill_(3.0)
        conv.bias.zero_()
        got = conv(torch.full((1, 1, 2, 2), 4.0))
    torch.testing.assert_close(got.item(), 2.0, rtol=1e-5, atol=0)


def test_names_choose_the_layer():
    assert type(make_linear(PredictorSpec(type="Linear"), 2, 3, where="x")) is torch.nn.Linear
    assert type(make_linear(PredictorSpec(type="NormedLinear"), 2, 3, where="x")) is NormedLinear
    assert type(make_last_conv(PredictorSpec(type="Conv"), 2, 3)) is torch.nn.Conv2d
    assert type(make_last_conv(PredictorSpec(type="NormedConv2d"), 2, 3)) is NormedConv2d
