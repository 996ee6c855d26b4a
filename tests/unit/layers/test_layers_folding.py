"""A convolution and its batch norm in one: same numbers, and only in inference."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from detector.layers.conv import ConvModule, ConvWS2d
from detector.layers.folding import convolve_and_normalise, fold_batch_norms
from detector.models.backbones.resnet import ResNet
from detector.structures.specs import NormSpec


def norm(channels: int = 6, *, affine: bool = True) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(1)
    made = nn.BatchNorm2d(channels, affine=affine, eps=1e-3)
    for tensor in (made.running_mean, made.running_var, *made.parameters()):
        assert tensor is not None
        tensor.data.copy_(0.2 + torch.rand(channels, generator=generator))
    return made.eval()


def image(seed: int = 0) -> Tensor:
    return torch.randn(2, 4, 9, 11, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_folded_and_apart_give_the_same(bias: bool, affine: bool, groups: int) -> None:
    conv, after = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups, bias=bias), norm(affine=affine)
    with torch.no_grad(), mock.patch.object(nn.BatchNorm2d, "forward", side_effect=AssertionError):
        found = convolve_and_normalise(conv, after, image())
    torch.testing.assert_close(found, after(conv(image())).detach(), rtol=1e-5, atol=1e-5)


def counted(conv: nn.Module, after: nn.Module) -> int:
    """Calls of the norm's forward."""
    with mock.patch.object(type(after), "forward", autospec=True, side_effect=type(after).forward) as calls:
        convolve_and_normalise(conv, after, image())
    return calls.call_count


@pytest.mark.parametrize("case", ["gradients", "training", "other convolution", "other norm", "hook"])
def test_otherwise_they_run_one_after_the_other(case: str) -> None:
    conv: nn.Module = ConvWS2d(4, 6, 3) if case == "other convolution" else nn.Conv2d(4, 6, 3)
    after: nn.Module = nn.GroupNorm(2, 6) if case == "other norm" else norm()
    after.train(case == "training")
    seen: list[str] = []
    if case == "hook":
        after.register_forward_hook(lambda *_: seen.append("hook"))
    with torch.set_grad_enabled(case == "gradients"):
        assert counted(conv, after) == 1
    assert seen == (["hook"] if case == "hook" else [])


def test_the_parameters_stay_as_they_are() -> None:
    block = ConvModule(4, 6, 3, norm_cfg=NormSpec(type="BN")).eval()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    with torch.no_grad():
        block(image())
    assert before.keys() == block.state_dict().keys()
    assert all(torch.equal(value, block.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("kind", [{"depth": 18}, {"depth": 50}, {"depth": 50, "avg_down": True}], ids=str)
def test_a_backbone_gives_the_same_maps_with_and_without_gradients(kind: dict[str, int]) -> None:
    torch.manual_seed(0)
    network = ResNet(base_channels=8, zero_init_residual=False, **kind)  # type: ignore[arg-type]
    network.init_weights()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.weight.data.uniform_(0.4, 0.6)
            module.running_var.uniform_(0.8, 1.2)
    network.eval()
    pixels = torch.randn(2, 3, 64, 96)
    apart = network(pixels)
    with torch.no_grad():
        folded = network(pixels)
    for got, wanted in zip(folded, apart, strict=True):
        torch.testing.assert_close(
            got, wanted.detach(), rtol=1e-4, atol=1e-5 * float(wanted.detach().abs().max())
        )


def tried() -> ResNet:
    """A small network with statistics that matter."""
    torch.manual_seed(0)
    network = ResNet(depth=50, base_channels=8, zero_init_residual=False)
    network.init_weights()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.data.uniform_(0.4, 0.6)
    return network.eval()


def test_a_backbone_folded_for_good_gives_the_same_maps() -> None:
    network, pixels = tried(), torch.randn(2, 3, 64, 96)
    wanted = [values.detach() for values in network(pixels)]
    assert fold_batch_norms(network) == 53
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for values, apart in zip(network(pixels), wanted, strict=True):
        torch.testing.assert_close(values, apart, rtol=0, atol=1e-5 * float(apart.abs().max()))


def test_folding_keeps_the_order_in_memory_and_finds_nothing_twice() -> None:
    network: nn.Module = tried().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fold_batch_norms(network)
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert fold_batch_norms(network) == 0


class Shared(nn.Module):
    """One convolution before two norms, as RetinaSepBN has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvModule(4, 6, 3, norm_cfg=NormSpec(type="BN"))
        self.second = ConvModule(4, 6, 3, norm_cfg=NormSpec(type="BN"))
        self.second.conv = self.first.conv


@pytest.mark.parametrize(
    "layers",
    [
        nn.Sequential(ConvWS2d(4, 6, 3), norm()),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), norm()),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6)),
        nn.Sequential(norm(4), nn.Conv2d(4, 6, 3)),
        nn.Sequential(nn.Conv2d(4, 6, 3), norm()).train(),
        Shared().eval(),
    ],
    ids=["computed weight", "between them", "other norm", "norm first", "training", "shared"],
)
def test_other_layers_are_not_folded(layers: nn.Module) -> None:
    assert fold_batch_norms(layers) == 0
