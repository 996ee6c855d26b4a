"""Global context block: one context vector per image, added to or multiplied into every position.

Shapes: B images, C channels, H x W map.
Paper: Cao et al., ICCVW 2019, arXiv:1904.11492 (GCNet).
Attribute names are the checkpoint format (mmcv 1.7 cnn/bricks/context_block.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.errors import ConfigError

POOLINGS = ("att", "avg")
FUSIONS = ("channel_add", "channel_mul")


@dataclass(frozen=True)
class ContextBlockPlugin:
    """Settings of a ``ContextBlock`` in another block; the type name in configs is ContextBlock.

    Attributes:
        ratio: hidden channels of the transform as a share of the channels.
        pooling_type: att (attention over positions) or avg.
        fusion_types: any of channel_add and channel_mul.
        in_channels: channels, where the place does not say them.
        postfix: end of the attribute name, to tell two apart.
    """

    ratio: float
    pooling_type: str = "att"
    fusion_types: tuple[str, ...] | list[str] = ("channel_add",)
    in_channels: int | None = None
    postfix: int | str = ""

    @property
    def name(self) -> str:
        """Attribute name in the block."""
        return f"context_block{self.postfix}"

    def make(self, channels: int) -> nn.Module:
        """The block for ``channels`` channels."""
        return ContextBlock(
            in_channels=self.in_channels or channels,
            ratio=self.ratio,
            pooling_type=self.pooling_type,
            fusion_types=tuple(self.fusion_types),
        )


def _transform(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        nn.LayerNorm([hidden, 1, 1]),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
    )


class ContextBlock(nn.Module):
    """Pools the map to one vector, transforms it in a bottleneck and fuses it with every position."""

    def __init__(
        self,
        *,
        in_channels: int,
        ratio: float,
        pooling_type: str = "att",
        fusion_types: tuple[str, ...] = ("channel_add",),
    ) -> None:
        """Arguments as in ``ContextBlockPlugin``.

        Raises:
            ConfigError: unknown pooling or fusion, or no fusion.
        """
        super().__init__()
        if pooling_type not in POOLINGS or not fusion_types or not set(fusion_types) <= set(FUSIONS):
            raise ConfigError(
                f"ContextBlock: found pooling_type={pooling_type!r}, fusion_types={fusion_types!r}; expected "
                f"one of {', '.join(POOLINGS)} and some of {', '.join(FUSIONS)}."
            )
        hidden = int(in_channels * ratio)
        self.conv_mask = nn.Conv2d(in_channels, 1, 1) if pooling_type == "att" else None
        self.channel_add_conv = _transform(in_channels, hidden) if "channel_add" in fusion_types else None
        self.channel_mul_conv = _transform(in_channels, hidden) if "channel_mul" in fusion_types else None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start as identity for the sum: the last layer of each transform is zero; Kaiming for the mask."""
        if self.conv_mask is not None:
            nn.init.kaiming_normal_(self.conv_mask.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(self.conv_mask.bias)  # type: ignore[arg-type]
        for transform in (self.channel_add_conv, self.channel_mul_conv):
            if transform is not None:
                nn.init.zeros_(transform[-1].weight)  # type: ignore[arg-type]
                nn.init.zeros_(transform[-1].bias)  # type: ignore[arg-type]

    def _context(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1): mean over positions, weighted by the mask's softmax if any."""
        if self.conv_mask is None:
            return x.mean(dim=(2, 3), keepdim=True)
        weights = self.conv_mask(x).flatten(2).softmax(dim=2)  # (B, 1, H * W)
        return (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        context = self._context(x)
        if self.channel_mul_conv is not None:
            x = x * self.channel_mul_conv(context).sigmoid()
        if self.channel_add_conv is not None:
            x = x + self.channel_add_conv(context)
        return x
