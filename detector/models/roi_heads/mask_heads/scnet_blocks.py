"""Residual blocks that take the place of pairs of convolutions in SCNet's heads.

Shapes: K maps of C_in or C channels, H x W.
Paper: Vu et al., AAAI 2021, arXiv:2012.10150. Attribute names are the checkpoint format (MMDetection 2.28,
models/utils/res_layer.py).
"""

from __future__ import annotations

from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import make_conv
from detector.layers.norm import add_norm
from detector.structures.specs import ConvSpec, NormSpec


class SimplifiedBasicBlock(nn.Module):
    """Two convolutions around an activation, added to their input; nothing after the sum."""

    def __init__(self, channels: int, *, conv_cfg: ConvSpec | None, norm_cfg: NormSpec | None) -> None:
        """``channels`` in and out; with ``norm_cfg`` a norm follows each convolution and takes its bias."""
        super().__init__()
        bias = norm_cfg is None
        self.conv1 = make_conv(conv_cfg, channels, channels, 3, padding=1, bias=bias)
        self._norm1 = None if norm_cfg is None else add_norm(self, norm_cfg, channels, 1)
        self.conv2 = make_conv(conv_cfg, channels, channels, 3, padding=1, bias=bias)
        self._norm2 = None if norm_cfg is None else add_norm(self, norm_cfg, channels, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(K, C, H, W) -> (K, C, H, W)."""
        out = self.conv1(x)
        out = self.relu(out if self._norm1 is None else getattr(self, self._norm1)(out))
        out = self.conv2(out)
        return x + (out if self._norm2 is None else getattr(self, self._norm2)(out))


def residual_convs(
    num_convs: int,
    in_channels: int,
    out_channels: int,
    *,
    conv_cfg: ConvSpec | None,
    norm_cfg: NormSpec | None,
) -> nn.Sequential:
    """Blocks of two convolutions each, ``num_convs // 2`` of them.

    Raises:
        ConfigError: the channels differ; no published model needs a projection here.
    """
    if in_channels != out_channels:
        raise ConfigError(
            f"conv_to_res: found {in_channels} channels in and {out_channels} out; residual blocks need the "
            "same number. Set conv_out_channels to in_channels."
        )
    blocks = (
        SimplifiedBasicBlock(out_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        for _ in range(num_convs // 2)
    )
    return nn.Sequential(*blocks)
