"""Convolutions by name, and the conv - norm - activation block.

Shapes: B images, C_in and C_out channels, H x W feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv_aws import ConvAWS2d
from detector.layers.deform_conv import DeformConv2dPack, ModulatedDeformConv2dPack
from detector.layers.folding import convolve_and_normalise
from detector.layers.norm import add_norm
from detector.layers.sac import SAConv2d
from detector.structures.specs import ActSpec, ConvSpec, NormSpec

RELU = ActSpec(type="ReLU")
PLAIN = ConvSpec(type="Conv2d")


class ConvWS2d(nn.Conv2d):
    """Convolution whose weight is standardised per output channel at every call.

    Source: Qiao et al., 2019, arXiv:1903.10520; checked against mmcv 1.7 ops/conv_ws.py.
    """

    def __init__(self, *args: object, eps: float = 1e-5, **kwargs: object) -> None:
        """Take the arguments of ``nn.Conv2d``; ``eps`` is added to the standard deviation."""
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        flat = self.weight.flatten(1)
        mean = flat.mean(dim=1).reshape(-1, 1, 1, 1)
        std = flat.std(dim=1).reshape(-1, 1, 1, 1)
        weight = (self.weight - mean) / (std + self.eps)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


Conv = nn.Conv2d | DeformConv2dPack | ModulatedDeformConv2dPack


def make_conv(
    spec: ConvSpec | None,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> Conv:
    """Build the convolution ``spec`` names (None: a plain one).

    Raises:
        ConfigError: unknown type, or DCN (version 1) with a bias.
    """
    spec = spec or PLAIN
    makers: dict[str, Callable[..., Conv]] = {
        "Conv": nn.Conv2d,
        "Conv2d": nn.Conv2d,
        "ConvWS": partial(ConvWS2d, eps=spec.eps),
        "ConvAWS": ConvAWS2d,
        "DCN": partial(DeformConv2dPack, deform_groups=spec.deform_groups),
        "DCNv2": partial(ModulatedDeformConv2dPack, deform_groups=spec.deform_groups),
        "SAC": partial(SAConv2d, use_deform=spec.use_deform),
    }
    if spec.type not in makers:
        raise ConfigError(f"conv_cfg: unknown type {spec.type!r}; expected one of {', '.join(makers)}.")
    return makers[spec.type](
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
    )


def make_activation(spec: ActSpec, *, inplace: bool = True) -> nn.Module:
    """Build the activation ``spec`` names."""
    makers = {
        "ReLU": lambda: nn.ReLU(inplace=inplace),
        "LeakyReLU": lambda: nn.LeakyReLU(spec.negative_slope, inplace=inplace),
        "ReLU6": lambda: nn.ReLU6(inplace=inplace),
        "SiLU": lambda: nn.SiLU(inplace=inplace),
        "Swish": lambda: nn.SiLU(inplace=inplace),
        "HSwish": lambda: nn.Hardswish(inplace=inplace),
        "Sigmoid": nn.Sigmoid,
        "Tanh": nn.Tanh,
        "GELU": nn.GELU,
    }
    if spec.type not in makers:
        raise ConfigError(f"act_cfg: unknown type {spec.type!r}; expected one of {', '.join(makers)}.")
    return makers[spec.type]()


class ConvModule(nn.Module):
    """Convolution, then norm and activation where given.

    The attribute names ``conv``, ``bn``/``gn`` and ``activate`` are the checkpoint format (mmcv 1.7
    cnn/bricks/conv_module.py).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        act_cfg: ActSpec | None = RELU,
        inplace: bool = True,
    ) -> None:
        """``bias`` None means: only without a norm."""
        super().__init__()
        self.conv = make_conv(
            conv_cfg,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=norm_cfg is None if bias is None else bias,
        )
        self._norm_name = None if norm_cfg is None else add_norm(self, norm_cfg, out_channels)
        self.activate = None if act_cfg is None else make_activation(act_cfg, inplace=inplace)
        self._leaky = act_cfg is not None and act_cfg.type == "LeakyReLU"
        self._slope = act_cfg.negative_slope if act_cfg is not None else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        if self._norm_name is None:
            x = self.conv(x)
        else:
            x = convolve_and_normalise(self.conv, getattr(self, self._norm_name), x)
        return x if self.activate is None else self.activate(x)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Kaiming normal (fan out) weights, zero bias, norm weight one.

        Convolutions with values of their own (DCNv2, SAC) keep to them.
        """
        if isinstance(self.conv, (ModulatedDeformConv2dPack, SAConv2d)):
            self.conv.init_weights()
        else:
            slope = self._slope if self._leaky else 0.0  # leaky ReLU of slope 0 has the gain of ReLU
            nn.init.kaiming_normal_(self.conv.weight, a=slope, mode="fan_out", nonlinearity="leaky_relu")
            if self.conv.bias is not None:
                nn.init.zeros_(self.conv.bias)
        norm = None if self._norm_name is None else getattr(self, self._norm_name)
        if norm is not None and norm.weight is not None:
            nn.init.ones_(norm.weight)
            nn.init.zeros_(norm.bias)
