"""Swin Transformer: attention inside windows that shift from block to block.

Shapes: B images, L = H * W tokens of C channels, windows of S x S tokens, N heads; output i is
(B, C * 2^i, H / 2^(i+2), W / 2^(i+2)) with the default strides.
Paper: Liu et al., ICCV 2021, arXiv:2103.14030.
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/swin.py; mmcv 1.7
cnn/bricks/transformer.py). The buffer ``relative_position_index`` is a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from detector.errors import ConfigError
from detector.layers.conv import make_activation
from detector.layers.drop_path import DropPath, depth_rates
from detector.layers.init import InitRules, apply_rules
from detector.layers.norm import freeze, make_norm
from detector.layers.patches import PatchEmbed, PatchMerging, to_map, to_tokens
from detector.structures.specs import ActSpec, InitSpec, NormSpec

GELU = ActSpec(type="GELU")
LAYER_NORM = NormSpec(type="LN")
_OTHER_REGION = -100.0  # added to the logits of tokens that the shift brought together
_DEFAULT_INIT = [
    InitSpec(type="TruncNormal", layer="Linear", std=0.02),
    InitSpec(type="Constant", layer="LayerNorm", val=1.0),
]


def split_windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C), sides multiples of ``side`` -> (B, windows, side * side, C), windows row by row."""
    grid = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join_windows(windows: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Reverse of ``split_windows`` for maps of ``size``."""
    grid = windows.unflatten(2, (side, side)).unflatten(1, (size[0] // side, size[1] // side))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def region_mask(size: tuple[int, int], side: int, shift: int, like: Tensor) -> Tensor:
    """What to add to the logits (windows, side * side, side * side) so that only neighbours see one another.

    After the cyclic shift the last row and column of windows hold tokens from opposite ends of the map.
    """
    rows, columns = (
        (torch.arange(length, device=like.device) >= length - side).long()
        + (torch.arange(length, device=like.device) >= length - shift).long()
        for length in size
    )
    regions = split_windows((3 * rows[:, None] + columns).unsqueeze(-1).unsqueeze(0), side).squeeze(0)
    other = regions != regions.transpose(1, 2)
    return like.new_zeros(other.shape).masked_fill(other, _OTHER_REGION)


class WindowMSA(nn.Module):
    """Multi-head attention with a learned bias per head and relative position."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        *,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop_rate: float,
        proj_drop_rate: float,
    ) -> None:
        """``qk_scale`` None is 1 / sqrt(channels per head)."""
        super().__init__()
        self.num_heads, self.scale = num_heads, qk_scale or (embed_dims // num_heads) ** -0.5
        span = 2 * window_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(span * span, num_heads))
        line = torch.arange(window_size)
        cells = (line[:, None] * span + line).flatten()
        offset = (window_size - 1) * (span + 1)
        self.register_buffer("relative_position_index", cells[:, None] - cells + offset)
        self.qkv = nn.Linear(embed_dims, embed_dims * 3, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, windows, S * S, C) -> the same; ``mask`` (windows, S * S, S * S) is added to the logits."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        index: Tensor = self.relative_position_index  # type: ignore[assignment]
        bias = self.relative_position_bias_table[index.flatten()].unflatten(0, index.shape).permute(2, 0, 1)
        logits = (q * self.scale) @ k.transpose(-2, -1) + bias
        if mask is not None:
            logits = logits + mask.unsqueeze(1)
        out = self.attn_drop(logits.softmax(dim=-1)) @ v
        return self.proj_drop(self.proj(out.transpose(2, 3).flatten(3)))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Truncated normal position biases."""
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)


@dataclass(frozen=True)
class SwinSettings:
    """What all blocks of a network share."""

    window_size: int
    mlp_ratio: float
    qkv_bias: bool
    qk_scale: float | None
    drop_rate: float
    attn_drop_rate: float
    act_cfg: ActSpec
    norm_cfg: NormSpec
    with_cp: bool


class ShiftWindowMSA(nn.Module):
    """Attention inside windows, of the map as it is or shifted by half a window."""

    def __init__(
        self, embed_dims: int, num_heads: int, *, shift: bool, drop_path: float, settings: SwinSettings
    ) -> None:
        """``drop_path``: probability that the branch is left out in training."""
        super().__init__()
        self.side = settings.window_size
        self.shift = self.side // 2 if shift else 0
        self.w_msa = WindowMSA(
            embed_dims,
            num_heads,
            self.side,
            qkv_bias=settings.qkv_bias,
            qk_scale=settings.qk_scale,
            attn_drop_rate=settings.attn_drop_rate,
            proj_drop_rate=settings.drop_rate,
        )
        self.drop = DropPath(drop_path)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, C) of an H x W map -> the same shape."""
        height, width = size
        x = tokens.unflatten(1, size)
        x = functional.pad(x, (0, 0, 0, -width % self.side, 0, -height % self.side))
        padded, mask = (x.shape[1], x.shape[2]), None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = region_mask(padded, self.side, self.shift, x)
        x = join_windows(self.w_msa(split_windows(x, self.side), mask), padded, self.side)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return self.drop(x[:, :height, :width].flatten(1, 2))


class FeedForward(nn.Module):
    """Two linear layers, applied to each token."""

    def __init__(
        self, embed_dims: int, hidden: int, *, drop: float, drop_path: float, act_cfg: ActSpec
    ) -> None:
        """``hidden`` channels between the layers."""
        super().__init__()
        first = nn.Sequential(nn.Linear(embed_dims, hidden), make_activation(act_cfg), nn.Dropout(drop))
        self.layers = nn.Sequential(first, nn.Linear(hidden, embed_dims), nn.Dropout(drop))
        self.dropout_layer = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> the same shape, before the sum."""
        return self.dropout_layer(self.layers(x))


class SwinBlock(nn.Module):
    """Attention and feed-forward branch, each with a norm before it and added to its input."""

    def __init__(
        self, embed_dims: int, num_heads: int, *, shift: bool, drop_path: float, settings: SwinSettings
    ) -> None:
        """Arguments as in ``ShiftWindowMSA``."""
        super().__init__()
        self.with_cp = settings.with_cp
        self.norm1 = make_norm(settings.norm_cfg, embed_dims)
        self.attn = ShiftWindowMSA(embed_dims, num_heads, shift=shift, drop_path=drop_path, settings=settings)
        self.norm2 = make_norm(settings.norm_cfg, embed_dims)
        self.ffn = FeedForward(
            embed_dims,
            int(settings.mlp_ratio * embed_dims),
            drop=settings.drop_rate,
            drop_path=drop_path,
            act_cfg=settings.act_cfg,
        )

    def _run(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x + self.attn(self.norm1(x), size)
        return x + self.ffn(self.norm2(x))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, C) of an H x W map -> the same shape."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._run, x, size, use_reentrant=False)
        return self._run(x, size)


class SwinStage(nn.Module):
    """Blocks, every second one shifted; then patch merging, unless it is the last stage."""

    def __init__(
        self, embed_dims: int, num_heads: int, drop_paths: Sequence[float], settings: SwinSettings
    ) -> None:
        """One block per rate in ``drop_paths``."""
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(embed_dims, num_heads, shift=i % 2 == 1, drop_path=rate, settings=settings)
            for i, rate in enumerate(drop_paths)
        )
        self.downsample: PatchMerging | None = None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, C) of an H x W map -> the same shape, before the merging."""
        for block in self.blocks:
            x = block(x, size)
        return x


class SwinTransformer(nn.Module):
    """Patch embedding and stages of window attention, without its classifier."""

    def __init__(
        self,
        *,
        pretrain_img_size: int | tuple[int, ...] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int = 4,
        window_size: int = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: ActSpec = GELU,
        norm_cfg: NormSpec = LAYER_NORM,
        with_cp: bool = False,
        convert_weights: bool = False,
        frozen_stages: int = -1,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the network.

        Args:
            pretrain_img_size: pixels of a side in pretraining; gives the size of the absolute positions.
            in_channels: channels of the image.
            embed_dims: channels of the first stage; each further stage doubles them.
            patch_size: pixels of a patch's side.
            window_size: tokens of a window's side.
            mlp_ratio: width of the feed-forward branch, relative to the stage's.
            depths: blocks of each stage.
            num_heads: attention heads of each stage.
            strides: stride of the patch embedding and of each merging.
            out_indices: stages whose normed output is returned.
            qkv_bias: the projections to queries, keys and values have a bias.
            qk_scale: factor of the queries; default 1 / sqrt(channels per head).
            patch_norm: a norm after patch embedding and in each merging.
            drop_rate: dropout of tokens and projections.
            attn_drop_rate: dropout of the attention weights.
            drop_path_rate: probability that the last block's branches are left out; linear from 0.
            use_abs_pos_embed: add a learned map of positions.
            act_cfg: activation of the feed-forward branches.
            norm_cfg: kind of norm.
            with_cp: recompute blocks in the backward pass to save memory.
            convert_weights: the pretrained checkpoint has the official repository's names; read by the
                checkpoint loader, not here.
            frozen_stages: embedding and this many stages take no part in training; -1 freezes nothing.
            init_cfg: rules for the initial values, or a pretrained checkpoint.

        Raises:
            ConfigError: the first stride is not the patch size, or stages do not fit one another.
        """
        super().__init__()
        if strides[0] != patch_size or not len(depths) == len(num_heads) == len(strides):
            raise ConfigError(
                f"SwinTransformer: found patch_size={patch_size}, strides={tuple(strides)}, {len(depths)} "
                f"depths and {len(num_heads)} num_heads; expected patch_size as the first stride, as many "
                "depths as strides, and as many num_heads."
            )
        self.out_indices, self.frozen_stages = tuple(out_indices), frozen_stages
        self.convert_weights, self.init_cfg = convert_weights, init_cfg
        settings = SwinSettings(
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            act_cfg=act_cfg,
            norm_cfg=norm_cfg,
            with_cp=with_cp,
        )
        merge_norm = norm_cfg if patch_norm else None
        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, patch_size, stride=strides[0], norm_cfg=merge_norm
        )
        self.absolute_pos_embed = (
            nn.Parameter(torch.zeros(1, embed_dims, *_grid(pretrain_img_size, patch_size)))
            if use_abs_pos_embed
            else None
        )
        self.drop_after_pos = nn.Dropout(drop_rate)
        rates = depth_rates(drop_path_rate, sum(depths))
        self.stages = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            width, start = embed_dims * 2**i, sum(depths[:i])
            stage = SwinStage(width, heads, rates[start : start + depth], settings)
            if i + 1 < len(depths):
                stage.downsample = PatchMerging(width, 2 * width, stride=strides[i + 1], norm_cfg=merge_norm)
            self.stages.append(stage)
        for i in self.out_indices:
            self.add_module(f"norm{i}", make_norm(norm_cfg, embed_dims * 2**i))
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives the maps of ``out_indices``."""
        tokens, size = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            positions = functional.interpolate(self.absolute_pos_embed, size=size, mode="bicubic")
            tokens = tokens + to_tokens(positions)
        tokens = self.drop_after_pos(tokens)
        outs = []
        for i, stage in enumerate(self.stages):
            tokens = stage(tokens, size)
            if i in self.out_indices:
                outs.append(to_map(getattr(self, f"norm{i}")(tokens), size))
            if stage.downsample is not None:
                tokens, size = stage.downsample(tokens, size)  # type: ignore[operator]
        return tuple(outs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        freeze(self.patch_embed)
        self.drop_after_pos.eval()
        if self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad = False
        for i in range(self.frozen_stages):
            freeze(self.stages[i])
            if i in self.out_indices:
                freeze(getattr(self, f"norm{i}"))

    def train(self, mode: bool = True) -> SwinTransformer:
        """Switch mode; frozen stages stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    @torch.no_grad()
    def init_weights(self) -> None:
        """Truncated normal linear layers and positions, unit norms, unless ``init_cfg`` says otherwise.

        Checkpoints are the engine's work.
        """
        apply_rules(self, _DEFAULT_INIT if self.init_cfg is None else self.init_cfg)
        for module in self.modules():
            if isinstance(module, WindowMSA):
                module.init_weights()
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)


def _grid(image: int | tuple[int, ...], patch: int) -> tuple[int, int]:
    """Rows and columns of patches of an image of (height, width) or a side."""
    sides = (image,) if isinstance(image, int) else image
    return sides[0] // patch, sides[-1] // patch
