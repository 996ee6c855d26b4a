"""Last layers on directions: weights and inputs are scaled to one length first.

Shapes: N rows or maps, C_in and C_out channels, H x W.
Source: checked against mmdet 2.28.2 models/utils/normed_predictor.py; attribute names are the checkpoint
format.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.structures.specs import PredictorSpec


class NormedLinear(nn.Linear):
    """Linear layer of scaled cosines."""

    def __init__(self, in_features: int, out_features: int, *, spec: PredictorSpec) -> None:
        """``spec``: temperature, power of the lengths and what is added to them."""
        super().__init__(in_features, out_features)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in) -> (N, C_out)."""
        power, eps = self.spec.power, self.spec.eps
        weight = self.weight / (self.weight.norm(dim=1, keepdim=True).pow(power) + eps)
        x = x / (x.norm(dim=1, keepdim=True).pow(power) + eps)
        return functional.linear(x * self.spec.tempearture, weight, self.bias)


class NormedConv2d(nn.Conv2d):
    """Convolution of scaled cosines; the weight's length is per kernel position unless the spec says else."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, spec: PredictorSpec) -> None:
        """``spec``: temperature, power of the lengths, what is added to them, and ``norm_over_kernel``."""
        super().__init__(in_channels, out_channels, kernel_size)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        power, eps = self.spec.power, self.spec.eps
        if self.spec.norm_over_kernel:
            length = self.weight.flatten(1).norm(dim=1)[:, None, None, None]
        else:
            length = self.weight.norm(dim=1, keepdim=True)
        weight = self.weight / (length.pow(power) + eps)
        x = x / (x.norm(dim=1, keepdim=True).pow(power) + eps)
        return functional.conv2d(x * self.spec.tempearture, weight, self.bias)


def make_linear(spec: PredictorSpec, in_features: int, out_features: int, *, where: str) -> nn.Linear:
    """Build the linear last layer that ``spec``, the setting called ``where``, names.

    Raises:
        ConfigError: another type than Linear or NormedLinear.
    """
    if spec.type == "Linear":
        return nn.Linear(in_features, out_features)
    if spec.type == "NormedLinear":
        return NormedLinear(in_features, out_features, spec=spec)
    raise ConfigError(
        f"{where}: found type {spec.type!r}; expected 'Linear' or 'NormedLinear'. "
        "Change or remove the setting."
    )


def make_last_conv(spec: PredictorSpec, in_channels: int, out_channels: int) -> nn.Conv2d:
    """Build the 1 x 1 last layer that ``spec`` names.

    Raises:
        ConfigError: another type than Conv, Conv2d or NormedConv2d.
    """
    if spec.type in ("Conv", "Conv2d"):
        return nn.Conv2d(in_channels, out_channels, 1)
    if spec.type == "NormedConv2d":
        return NormedConv2d(in_channels, out_channels, 1, spec=spec)
    raise ConfigError(
        f"predictor_cfg: found type {spec.type!r}; expected 'Conv', 'Conv2d' or 'NormedConv2d'. "
        "Change or remove the setting."
    )
