"""Half precision in training: where it is used, what stays, and the loss scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detector.engine.precision import LossScaler, PrecisionPlan, fitting, use_precision
from detector.engine.step import LEFT_OUT_LIMIT, LossModule, NonFiniteLoss, Portion, training_step
from detector.layers.deform_conv import DeformConv2dPack
from detector.structures.samples import Batch, ImageMeta

CPU = torch.device("cpu")


class Net(nn.Module):
    """A backbone with a deformable convolution, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), DeformConv2dPack(4, 4, 3, padding=1))
        self.neck = None
        self.head = nn.Conv2d(4, 1, 1)
        self.seen: dict[str, torch.dtype] = {}
        self.factor = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        maps = self.backbone(batch.images)
        raw = self.head(maps)
        self.seen = {"maps": maps.dtype, "raw": raw.dtype}
        return {"loss": raw.square().mean() * self.factor}


def batch() -> Batch:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    metas = [
        ImageMeta(ori_hw=(8, 8), input_hw=(8, 8), pad_hw=(8, 8), ori_filename=f"{i}.jpg") for i in (0, 1)
    ]
    return Batch(images=images, metas=metas, targets=[])


def step(
    net: Net, optimizer: torch.optim.Optimizer, scaler: LossScaler | None = None, **options: object
) -> float:
    return training_step(LossModule(net), batch(), optimizer, scaler=scaler, **options).values["loss"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_layers_compute_in_half_while_weights_outputs_and_gradients_stay(
    name: str, dtype: torch.dtype
) -> None:
    net = Net()
    inner: list[torch.dtype] = []
    net.backbone[0].register_forward_hook(lambda _m, _i, out: inner.append(out.dtype))
    keys = list(net.state_dict())
    use_precision(net, CPU, PrecisionPlan(name))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = step(net, optimizer)
    assert inner == [dtype]
    assert net.seen == {"maps": torch.float32, "raw": torch.float32}
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float32}
    assert list(net.state_dict()) == keys
    assert step(net, optimizer) < before
    single = step(Net(), torch.optim.SGD(Net().parameters(), lr=0.1))
    assert before != single
    assert before == pytest.approx(single, rel=2e-2)


def test_float32_changes_nothing() -> None:
    net = Net()
    assert use_precision(net, CPU, PrecisionPlan()) is None
    assert "forward" not in vars(net.backbone)


def test_a_published_fp16_is_float32_on_a_cpu_and_says_so() -> None:
    notes: list[str] = []
    plan = PrecisionPlan("fp16", 512.0)
    assert fitting(plan, CPU, asked=False, note=notes.append) == PrecisionPlan()
    assert "precision=bf16" in notes[0]
    assert fitting(plan, CPU, asked=True, note=notes.append) is plan
    assert len(notes) == 1


@pytest.mark.parametrize("scale", ["dynamic", 8.0])
def test_an_overflow_leaves_the_step_out(scale: float | str) -> None:
    net = Net()
    scaler, optimizer = LossScaler(CPU, scale), torch.optim.SGD(net.parameters(), lr=0.1)
    first, weights = scaler.value, net.head.weight.detach().clone()
    net.factor = float("inf")
    step(net, optimizer, scaler, grad_clip={"max_norm": 1.0})
    assert torch.equal(net.head.weight, weights)
    assert scaler.left_out == 1
    assert scaler.value == (first / 2 if scale == "dynamic" else first)
    net.factor = 1.0
    step(net, optimizer, scaler)
    assert not torch.equal(net.head.weight, weights)
    assert scaler.left_out == 0


def test_many_in_a_row_are_an_error() -> None:
    net = Net()
    scaler, optimizer = LossScaler(CPU), torch.optim.SGD(net.parameters(), lr=0.1)
    net.factor = float("nan")
    for _ in range(LEFT_OUT_LIMIT - 1):
        step(net, optimizer, scaler)
    with pytest.raises(NonFiniteLoss, match=r"0\.jpg, 1\.jpg"):
        step(net, optimizer, scaler)


def test_the_scale_changes_no_update_and_survives_a_checkpoint() -> None:
    plain, scaled = Net(), Net()
    scaler = LossScaler(CPU, {"init_scale": 1024.0, "growth_interval": 2})
    ours, theirs = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (scaled, plain))
    for _ in range(2):
        assert step(scaled, ours, scaler) == pytest.approx(step(plain, theirs), rel=1e-5)
    assert scaler.value == 2048.0
    other = LossScaler(CPU, {"init_scale": 1024.0, "growth_interval": 2})
    other.restore(scaler.state())
    assert other.value == 2048.0


def test_portions_make_one_update_of_the_mean() -> None:
    portions = [Portion.at(i, 8, 3) for i in range(8)]
    assert [(p.of, p.first, p.last) for p in portions] == [
        (3, True, False), (3, False, False), (3, False, True),
        (3, True, False), (3, False, False), (3, False, True),
        (2, True, False), (2, False, True),
    ]  # fmt: skip
    whole, parts = Net(), Net()
    step(whole, torch.optim.SGD(whole.parameters(), lr=0.1))
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.1)
    start = parts.head.weight.detach().clone()
    step(parts, optimizer, portion=portions[0])
    assert torch.equal(parts.head.weight, start)
    step(parts, optimizer, portion=portions[1])
    step(parts, optimizer, portion=portions[2])
    assert torch.allclose(parts.head.weight, whole.head.weight, atol=1e-7)
