"""Balanced feature pyramid: all levels averaged, refined and given back to each.

Shapes: B images, L levels, C channels; level i of H_i x W_i.
Paper: Pang et al., Libra R-CNN, CVPR 2019, arXiv:1904.02701. Attribute names are the checkpoint format
(MMDetection 2.28, models/necks/bfp.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, interpolate

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules
from detector.layers.non_local import NonLocal2d
from detector.structures.specs import ConvSpec, InitSpec, NormSpec

XAVIER_CONV = InitSpec(type="Xavier", layer="Conv2d", distribution="uniform")


class BFP(nn.Module):
    """Average at one level's size, refine there, add to every level."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int,
        refine_level: int = 2,
        refine_type: str | None = None,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        init_cfg: InitRules = XAVIER_CONV,
    ) -> None:
        """Describe the neck.

        Args:
            in_channels: C, of every level.
            num_levels: L.
            refine_level: index of the level whose size the average has.
            refine_type: conv, non_local or None.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        if refine_type not in (None, "conv", "non_local"):
            raise ConfigError(f"BFP: refine_type {refine_type!r}; expected 'conv', 'non_local' or None.")
        if not 0 <= refine_level < num_levels:
            raise ConfigError(f"BFP: refine_level {refine_level}; expected 0 to {num_levels - 1}.")
        self.num_levels, self.refine_level, self.init_cfg = num_levels, refine_level, init_cfg
        self.refine: nn.Module | None = None
        if refine_type == "conv":
            self.refine = ConvModule(
                in_channels, in_channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg
            )
        elif refine_type == "non_local":
            self.refine = NonLocal2d(
                in_channels, reduction=1, use_scale=False, conv_cfg=conv_cfg, norm_cfg=norm_cfg
            )

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L maps (B, C, H_i, W_i), finest first, give maps of the same shapes.

        Raises:
            ConfigError: the number of maps is not ``num_levels``.
        """
        if len(feats) != self.num_levels:
            raise ConfigError(f"BFP: found {len(feats)} levels; expected num_levels={self.num_levels}.")
        middle = feats[self.refine_level].shape[-2:]
        gathered = [
            adaptive_max_pool2d(x, middle) if i < self.refine_level else interpolate(x, middle)
            for i, x in enumerate(feats)
        ]
        balanced = torch.stack(gathered).sum(dim=0) / len(gathered)
        if self.refine is not None:
            balanced = self.refine(balanced)
        return tuple(
            (interpolate(balanced, x.shape[-2:]) if i < self.refine_level
             else adaptive_max_pool2d(balanced, x.shape[-2:])) + x
            for i, x in enumerate(feats)
        )  # fmt: skip

    def init_weights(self) -> None:
        """Own values of the refining block, then ``init_cfg`` (Xavier convolutions)."""
        if self.refine is not None:
            self.refine.init_weights()  # type: ignore[operator]
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
