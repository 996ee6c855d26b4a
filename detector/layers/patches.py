"""Images to sequences of patches, for transformers that work at several resolutions.

Shapes: B images, C channels, H x W map, L = H * W tokens.
Attribute names are the checkpoint format (MMDetection 2.28, models/utils/transformer.py).
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from detector.layers.norm import make_norm
from detector.structures.specs import NormSpec


def missing_cover(length: int, kernel_size: int, stride: int, dilation: int = 1) -> int:
    """How many cells a side lacks so that ceil(length / stride) windows fit on it."""
    covered = (math.ceil(length / stride) - 1) * stride + (kernel_size - 1) * dilation + 1
    return max(covered - length, 0)


def pad_to_cover(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Add zeros right of and below (B, C, H, W) maps so that windows cover them."""
    down, right = (missing_cover(side, kernel_size, stride) for side in x.shape[2:])
    return functional.pad(x, (0, right, 0, down)) if down or right else x


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, size).contiguous()


class PatchEmbed(nn.Module):
    """A strided convolution gives the tokens; then a norm."""

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        kernel_size: int,
        *,
        stride: int,
        padding: int | None = None,
        norm_cfg: NormSpec | None = None,
    ) -> None:
        """``padding`` cells on each side; None pads right and below so that patches cover the map."""
        super().__init__()
        self.cover = (kernel_size, stride) if padding is None else None
        self.projection = nn.Conv2d(in_channels, embed_dims, kernel_size, stride=stride, padding=padding or 0)
        self.norm = None if norm_cfg is None else make_norm(norm_cfg, embed_dims)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, C, H, W) -> (B, L, embed_dims) and the (h, w) with L = h * w."""
        x = self.projection(x if self.cover is None else pad_to_cover(x, *self.cover))
        tokens = to_tokens(x)
        size = (x.shape[2], x.shape[3])
        return (tokens if self.norm is None else self.norm(tokens)), size


class PatchMerging(nn.Module):
    """Each 2 x 2 patch becomes one token: join, norm, linear layer.

    The joined channels are ordered channel first, position second (unlike in the official Swin weights).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 2, norm_cfg: NormSpec | None
    ) -> None:
        """``stride`` between patches."""
        super().__init__()
        self.stride = stride
        self.norm = None if norm_cfg is None else make_norm(norm_cfg, 4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """(B, H * W, C) of an H x W map -> (B, h * w, out_channels) and (h, w)."""
        x = pad_to_cover(to_map(tokens, size), 2, self.stride)
        joined = functional.unfold(x, 2, stride=self.stride).transpose(1, 2)
        merged = self.reduction(joined if self.norm is None else self.norm(joined))
        return merged, ((x.shape[2] - 2) // self.stride + 1, (x.shape[3] - 2) // self.stride + 1)
