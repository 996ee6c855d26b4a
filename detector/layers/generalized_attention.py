"""Spatial attention made of four optional terms: contents, relative positions and learned biases.

Shapes: B images, C channels, H x W map; M heads of D = C // M channels; h x w queries, hk x wk keys.
Paper: Zhu et al., ICCV 2019, arXiv:1904.05873.
Attribute names are the checkpoint format (mmcv 1.7 cnn/bricks/generalized_attention.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError

WAVE_LENGTH = 1000.0


@dataclass(frozen=True)
class GeneralizedAttentionPlugin:
    """Settings of a ``GeneralizedAttention``, whose type name in configs this is; fields as there.

    ``in_channels`` counts where the place does not say the channels; ``postfix`` ends the attribute name.
    """

    spatial_range: int = -1
    num_heads: int = 9
    position_embedding_dim: int = -1
    position_magnitude: float = 1
    kv_stride: int = 2
    q_stride: int = 1
    attention_type: str = "1111"
    in_channels: int | None = None
    postfix: int | str = ""

    @property
    def name(self) -> str:
        """Attribute name in the block."""
        return f"gen_attention_block{self.postfix}"

    def make(self, channels: int) -> nn.Module:
        """The layer for ``channels`` channels."""
        settings = {k: v for k, v in vars(self).items() if k not in ("in_channels", "postfix")}
        return GeneralizedAttention(in_channels=self.in_channels or channels, **settings)


def relative_embedding(
    queries: int, keys: int, *, q_stride: int, kv_stride: int, magnitude: float, dim: int, like: Tensor
) -> Tensor:
    """Sines and cosines of the differences of query and key positions along one axis.

    Returns:
        (queries, keys, dim / 2) in the type and on the device of ``like``.
    """
    q = torch.arange(queries, device=like.device, dtype=like.dtype) * q_stride
    k = torch.arange(keys, device=like.device, dtype=like.dtype) * kv_stride
    difference = (q[:, None] - k) * magnitude
    steps = torch.arange(0, dim / 4, device=like.device).to(like.dtype)
    waves = like.new_tensor(WAVE_LENGTH) ** ((4.0 / dim) * steps)
    phase = difference[..., None] / waves
    return torch.cat((phase.sin(), phase.cos()), dim=2)


def far_keys(queries: int, keys: int, *, spatial_range: int, kv_stride: int, device: torch.device) -> Tensor:
    """(queries, keys) bool: keys farther than ``spatial_range`` pixels from the query along one axis."""
    q = torch.arange(queries, device=device)[:, None]
    k = torch.arange(keys, device=device)
    first = torch.div(q - spatial_range, kv_stride, rounding_mode="floor").clamp(min=0)
    last = torch.div(q + spatial_range + 1, kv_stride, rounding_mode="floor")
    return (k < first) | (k > last)


class GeneralizedAttention(nn.Module):
    """Attention over a map, added to it with the learned weight ``gamma``, zero at first."""

    def __init__(
        self,
        *,
        in_channels: int,
        spatial_range: int = -1,
        num_heads: int = 9,
        position_embedding_dim: int = -1,
        position_magnitude: float = 1,
        kv_stride: int = 2,
        q_stride: int = 1,
        attention_type: str = "1111",
    ) -> None:
        """Describe the attention.

        Args:
            in_channels: channels of the map.
            spatial_range: how far a query looks, in pixels along each axis; -1 is everywhere. The reference
                keeps such a range as a tensor in its checkpoints, for maps up to 84 pixels; here it follows
                from the numbers, for any map.
            num_heads: heads; what is left of ``in_channels / num_heads`` is not used.
            position_embedding_dim: width of the position embedding; -1 is ``in_channels``.
            position_magnitude: factor of the position differences.
            kv_stride: every so many pixels is a key.
            q_stride: every so many pixels is a query; the result is interpolated.
            attention_type: four digits 0 or 1 that switch the terms query-key content, query content and
                relative position, key content only, relative position only.

        Raises:
            ConfigError: ``attention_type`` has another form.
        """
        super().__init__()
        if len(attention_type) != 4 or set(attention_type) - {"0", "1"}:
            raise ConfigError(
                f"GeneralizedAttention: found attention_type={attention_type!r}; expected four digits 0 or 1."
            )
        self.terms = tuple(digit == "1" for digit in attention_type)
        self.num_heads, self.head_dim = num_heads, in_channels // num_heads
        self.spatial_range, self.q_stride, self.kv_stride = spatial_range, q_stride, kv_stride
        self.embedding_dim = position_embedding_dim if position_embedding_dim > 0 else in_channels
        self.magnitude = position_magnitude
        width = self.head_dim * num_heads
        content, position, key_only, position_only = self.terms
        if content or position:
            self.query_conv = nn.Conv2d(in_channels, width, 1, bias=False)
        if content or key_only:
            self.key_conv = nn.Conv2d(in_channels, width, 1, bias=False)
        self.value_conv = nn.Conv2d(in_channels, width, 1, bias=False)
        if position or position_only:
            self.appr_geom_fc_x = nn.Linear(self.embedding_dim // 2, width, bias=False)
            self.appr_geom_fc_y = nn.Linear(self.embedding_dim // 2, width, bias=False)
        if key_only:
            self.appr_bias = nn.Parameter(torch.empty(width))
        if position_only:
            self.geom_bias = nn.Parameter(torch.empty(width))
        self.proj_conv = nn.Conv2d(width, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Uniform values within sqrt(3 / fan in) for layers and 1 / sqrt(2 D) for biases; ``gamma`` zero."""
        for layer in self.children():
            nn.init.kaiming_uniform_(layer.weight, a=1, mode="fan_in", nonlinearity="leaky_relu")  # type: ignore[arg-type]
        nn.init.zeros_(self.proj_conv.bias)  # type: ignore[arg-type]
        bound = 1 / math.sqrt(self.head_dim * 2)
        for name, bias in self.named_parameters(recurse=False):
            if name.endswith("_bias"):
                nn.init.uniform_(bias, -bound, bound)
        nn.init.zeros_(self.gamma)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, M * D, h, w) -> (B, M, h * w, D)."""
        return x.flatten(2).unflatten(1, (self.num_heads, self.head_dim)).transpose(2, 3)

    def _side(self, query: Tensor | None, use_query: bool, bias: str, use_bias: bool) -> Tensor | None:
        """What meets keys or positions: the query, a bias, their sum, or nothing."""
        parts: list[Any] = [query] if use_query else []
        if use_bias:
            parts.append(getattr(self, bias).reshape(1, self.num_heads, 1, self.head_dim))
        return sum(parts[1:], parts[0]) if parts else None

    def _positions(self, layer: nn.Linear, queries: int, keys: int, like: Tensor) -> Tensor:
        """Projected embeddings of one axis, (1, M, queries, D, keys)."""
        embedding = relative_embedding(
            queries,
            keys,
            q_stride=self.q_stride,
            kv_stride=self.kv_stride,
            magnitude=self.magnitude,
            dim=self.embedding_dim,
            like=like,
        )
        feats = layer(embedding) / math.sqrt(2)
        return feats.unflatten(2, (self.num_heads, self.head_dim)).permute(2, 0, 3, 1)[None]

    def _position_energy(self, side: Tensor, x: Tensor, hw: tuple[int, int], hw_k: tuple[int, int]) -> Tensor:
        """(B or 1, M, h, w, hk, wk): the energies of both axes, summed."""
        grid = side.unflatten(2, hw if side.shape[2] > 1 else (1, 1))  # a lone bias serves all queries
        along_x = self._positions(self.appr_geom_fc_x, hw[1], hw_k[1], x)
        along_y = self._positions(self.appr_geom_fc_y, hw[0], hw_k[0], x)
        energy_x = (grid.transpose(2, 3) @ along_x).transpose(2, 3)  # (.., h or 1, w, wk)
        # With queries but no bias the reference lets the transposed map ask for rows, which works for square
        # maps only; the weights of GRoIE were trained so.
        mixed = self.terms[1] and not self.terms[3] and hw[0] == hw[1]
        energy_y = (grid.transpose(2, 3) if mixed else grid) @ along_y  # (.., h, w or 1, hk)
        return energy_x.unsqueeze(4) + energy_y.unsqueeze(5)

    def _energy(self, x: Tensor, query_map: Tensor, key_map: Tensor) -> Tensor:
        """(B, M, h, w, hk, wk), with sizes 1 where nothing tells the queries apart."""
        content, position, key_only, position_only = self.terms
        hw, hw_k = query_map.shape[2:], key_map.shape[2:]
        query = self._heads(self.query_conv(query_map)) if content or position else None
        energy = x.new_zeros((len(x), self.num_heads, 1, 1, *hw_k))
        side = self._side(query, content, "appr_bias", key_only)
        if side is not None:
            keys = self._heads(self.key_conv(key_map)).transpose(2, 3)
            rows = hw if content else (1, 1)
            energy = energy + (side @ keys).unflatten(2, rows).unflatten(4, hw_k)
        side = self._side(query, position, "geom_bias", position_only)
        if side is not None:
            energy = energy + self._position_energy(side, x, (hw[0], hw[1]), (hw_k[0], hw_k[1]))
        if self.spatial_range >= 0:
            energy = energy.masked_fill(self._out_of_range(hw, hw_k, x.device), float("-inf"))
        return energy

    def _out_of_range(self, hw: torch.Size, hw_k: torch.Size, device: torch.device) -> Tensor:
        """(h, w, hk, wk) bool."""
        rows, columns = (
            far_keys(queries, keys, spatial_range=self.spatial_range, kv_stride=self.kv_stride, device=device)
            for queries, keys in zip(hw, hw_k, strict=True)
        )
        return rows[:, None, :, None] | columns[None, :, None, :]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        query_map = x[..., :: self.q_stride, :: self.q_stride]
        key_map = x[..., :: self.kv_stride, :: self.kv_stride]
        energy = self._energy(x, query_map, key_map)
        rows = energy.shape[2:4]
        attention = energy.flatten(4).flatten(2, 3).softmax(dim=3)
        out = attention @ self._heads(self.value_conv(key_map))
        out = out.transpose(2, 3).flatten(1, 2).unflatten(2, rows)
        out = self.proj_conv(out)
        if self.q_stride > 1:
            out = functional.interpolate(out, size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.gamma * out + x
