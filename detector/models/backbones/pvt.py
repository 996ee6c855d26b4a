"""Pyramid Vision Transformer, versions 1 and 2: attention to keys and values of reduced resolution.

Shapes: B images, L = H * W tokens of C channels; output i is (B, embed_dims * num_heads[i], H / 2^(i+2),
W / 2^(i+2)) with the default strides.
Papers: Wang et al., ICCV 2021, arXiv:2102.12122; Wang et al., CVMJ 2022, arXiv:2106.13797 (v2).
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/pvt.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import make_activation
from detector.layers.drop_path import DropPath, depth_rates
from detector.layers.init import apply_rules
from detector.layers.norm import make_norm
from detector.layers.patches import PatchEmbed, to_map, to_tokens
from detector.structures.specs import ActSpec, InitSpec, NormSpec

GELU = ActSpec(type="GELU")
LAYER_NORM = NormSpec(type="LN", eps=1e-6)
_DEFAULT_INIT = [
    InitSpec(type="TruncNormal", layer="Linear", std=0.02),
    InitSpec(type="Constant", layer="LayerNorm", val=1.0),
]


@dataclass(frozen=True)
class PvtCheckpointSpec(InitSpec):
    """``init_cfg`` of the published configs: a checkpoint without a type."""

    type: str = "Pretrained"


@dataclass(frozen=True)
class PvtSettings:
    """What all layers of a network share."""

    drop_rate: float
    attn_drop_rate: float
    qkv_bias: bool
    use_conv_ffn: bool
    act_cfg: ActSpec
    norm_cfg: NormSpec


class MixFFN(nn.Module):
    """Feed-forward branch of 1 x 1 convolutions; a depthwise 3 x 3 one between them tells positions apart."""

    def __init__(self, embed_dims: int, hidden: int, *, drop_path: float, settings: PvtSettings) -> None:
        """``hidden`` channels between the convolutions."""
        super().__init__()
        drop = nn.Dropout(settings.drop_rate)
        parts: list[nn.Module] = [nn.Conv2d(embed_dims, hidden, 1)]
        if settings.use_conv_ffn:
            parts.append(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden))
        parts += [make_activation(settings.act_cfg), drop, nn.Conv2d(hidden, embed_dims, 1), drop]
        self.layers = nn.Sequential(*parts)
        self.dropout_layer = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, C) of an H x W map -> the same shape, before the sum."""
        return self.dropout_layer(to_tokens(self.layers(to_map(x, size))))


class SpatialReductionAttention(nn.Module):
    """Multi-head attention of all tokens to those of a map ``sr_ratio`` times smaller."""

    def __init__(
        self, embed_dims: int, num_heads: int, *, sr_ratio: int, drop_path: float, settings: PvtSettings
    ) -> None:
        """``sr_ratio`` 1 is plain attention."""
        super().__init__()
        self.attn = nn.MultiheadAttention(
            embed_dims, num_heads, settings.attn_drop_rate, bias=settings.qkv_bias, batch_first=True
        )
        self.proj_drop = nn.Dropout(settings.drop_rate)
        self.dropout_layer = DropPath(drop_path)
        self.sr_ratio = sr_ratio
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, sr_ratio, stride=sr_ratio)
            self.norm = make_norm(settings.norm_cfg, embed_dims)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, C) of an H x W map -> the same shape, before the sum."""
        source = x if self.sr_ratio == 1 else self.norm(to_tokens(self.sr(to_map(x, size))))
        out = self.attn(x, source, source, need_weights=False)[0]
        return self.dropout_layer(self.proj_drop(out))


class PVTEncoderLayer(nn.Module):
    """Attention and feed-forward branch, each with a norm before it and added to its input."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        hidden: int,
        *,
        sr_ratio: int,
        drop_path: float,
        settings: PvtSettings,
    ) -> None:
        """``hidden`` channels in the feed-forward branch."""
        super().__init__()
        self.norm1 = make_norm(settings.norm_cfg, embed_dims)
        self.attn = SpatialReductionAttention(
            embed_dims, num_heads, sr_ratio=sr_ratio, drop_path=drop_path, settings=settings
        )
        self.norm2 = make_norm(settings.norm_cfg, embed_dims)
        self.ffn = MixFFN(embed_dims, hidden, drop_path=drop_path, settings=settings)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, C) of an H x W map -> the same shape."""
        x = x + self.attn(self.norm1(x), size)
        return x + self.ffn(self.norm2(x), size)


class AbsolutePositionEmbedding(nn.Module):
    """A learned map of positions, resized to the tokens' map."""

    def __init__(self, grid: tuple[int, int], embed_dims: int, *, drop_rate: float) -> None:
        """``grid`` rows and columns of the learned map."""
        super().__init__()
        self.grid = grid
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], embed_dims))
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H * W, C) of an H x W map -> the same shape."""
        positions = functional.interpolate(to_map(self.pos_embed, self.grid), size=size, mode="bilinear")
        return self.drop(x + to_tokens(positions))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Truncated normal positions."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)


class PyramidVisionTransformer(nn.Module):
    """Stages of patch embedding and encoder layers, without the classifier."""

    def __init__(
        self,
        *,
        pretrain_img_size: int | tuple[int, ...] = 224,
        in_channels: int = 3,
        embed_dims: int = 64,
        num_stages: int = 4,
        num_layers: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        patch_sizes: Sequence[int] = (4, 2, 2, 2),
        strides: Sequence[int] = (4, 2, 2, 2),
        paddings: Sequence[int] = (0, 0, 0, 0),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = True,
        norm_after_stage: bool = False,
        use_conv_ffn: bool = False,
        act_cfg: ActSpec = GELU,
        norm_cfg: NormSpec = LAYER_NORM,
        convert_weights: bool = True,
        init_cfg: PvtCheckpointSpec | list[PvtCheckpointSpec] | None = None,
    ) -> None:
        """Describe the network; sequences hold one value per stage.

        Args:
            pretrain_img_size: pixels of a side in pretraining; gives the size of the learned positions.
            in_channels: channels of the image.
            embed_dims: channels per head.
            num_stages: length of the sequences.
            num_layers: encoder layers.
            num_heads: attention heads.
            patch_sizes: cells of a patch's side.
            strides: stride of the patch embedding.
            paddings: padding of the patch embedding.
            sr_ratios: how much smaller the map of keys and values is.
            out_indices: stages whose output is returned.
            mlp_ratios: width of the feed-forward branch, relative to the stage's.
            qkv_bias: the projections of the attention have a bias.
            drop_rate: dropout of tokens and projections.
            attn_drop_rate: dropout of the attention weights.
            drop_path_rate: probability that the last layer's branches are left out; linear from 0.
            use_abs_pos_embed: add learned positions.
            norm_after_stage: a norm at the end of each stage.
            use_conv_ffn: a depthwise convolution in the feed-forward branch.
            act_cfg: activation of the feed-forward branch.
            norm_cfg: kind of norm.
            convert_weights: the pretrained checkpoint has the official repository's names; read by the
                checkpoint loader, not here.
            init_cfg: rules for the initial values, or a pretrained checkpoint.

        Raises:
            ConfigError: sequences of other lengths.
        """
        super().__init__()
        per_stage = (num_layers, num_heads, patch_sizes, strides, paddings, sr_ratios, mlp_ratios)
        if any(len(values) != num_stages for values in per_stage):
            raise ConfigError(
                f"PyramidVisionTransformer: found settings of {sorted({len(v) for v in per_stage})} stages; "
                f"expected num_stages = {num_stages} values in each."
            )
        self.out_indices, self.init_cfg, self.convert_weights = tuple(out_indices), init_cfg, convert_weights
        settings = PvtSettings(drop_rate, attn_drop_rate, qkv_bias, use_conv_ffn, act_cfg, norm_cfg)
        rates = iter(depth_rates(drop_path_rate, sum(num_layers)))
        self.layers = nn.ModuleList()
        for i in range(num_stages):
            width = embed_dims * num_heads[i]
            embed = PatchEmbed(
                in_channels,
                width,
                patch_sizes[i],
                stride=strides[i],
                padding=paddings[i],
                norm_cfg=norm_cfg,
            )
            parts: list[nn.Module] = []
            if use_abs_pos_embed:
                grid = _grid(pretrain_img_size, math.prod(patch_sizes[: i + 1]))
                parts.append(AbsolutePositionEmbedding(grid, width, drop_rate=drop_rate))
            parts += [
                PVTEncoderLayer(
                    width,
                    num_heads[i],
                    mlp_ratios[i] * width,
                    sr_ratio=sr_ratios[i],
                    drop_path=next(rates),
                    settings=settings,
                )
                for _ in range(num_layers[i])
            ]
            norm = make_norm(norm_cfg, width) if norm_after_stage else nn.Identity()
            self.layers.append(nn.ModuleList([embed, nn.ModuleList(parts), norm]))
            in_channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives the maps of ``out_indices``."""
        outs = []
        stages: Any = self.layers
        for i, (embed, parts, norm) in enumerate(stages):
            tokens, size = embed(x)
            for part in parts:
                tokens = part(tokens, size)
            x = to_map(norm(tokens), size)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Truncated normal linear layers and positions, convolutions by fan out, unit norms.

        ``init_cfg`` rules come instead; checkpoints are the engine's work.
        """
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
            return
        apply_rules(self, _DEFAULT_INIT)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, AbsolutePositionEmbedding):
                module.init_weights()


class PyramidVisionTransformerV2(PyramidVisionTransformer):
    """PVT with overlapping patches and convolutions in the feed-forward branch instead of positions."""

    def __init__(self, **kwargs: object) -> None:
        """Take the arguments of ``PyramidVisionTransformer`` except those set here."""
        super().__init__(
            patch_sizes=(7, 3, 3, 3),
            paddings=(3, 1, 1, 1),
            use_abs_pos_embed=False,
            norm_after_stage=True,
            use_conv_ffn=True,
            **kwargs,  # type: ignore[arg-type]
        )


def _grid(image: int | tuple[int, ...], patch: int) -> tuple[int, int]:
    """Rows and columns of patches of an image of (height, width) or a side."""
    sides = (image,) if isinstance(image, int) else image
    return sides[0] // patch, sides[-1] // patch
