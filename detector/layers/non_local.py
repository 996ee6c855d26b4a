"""Attention of every position to every position of a feature map.

Shapes: B images, C channels, H x W positions, E = C / reduction embedding channels.
Paper: Wang et al., CVPR 2018, arXiv:1711.07971. Attribute names are the checkpoint format (mmcv 1.7
cnn/bricks/non_local.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.layers.conv import ConvModule
from detector.layers.init import normal_
from detector.layers.norm import norm_name
from detector.structures.specs import ConvSpec, NormSpec


class NonLocal2d(nn.Module):
    """Embedded Gaussian attention added to its input."""

    def __init__(
        self,
        in_channels: int,
        *,
        reduction: int = 2,
        use_scale: bool = True,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
    ) -> None:
        """Describe the block.

        Args:
            in_channels: C.
            reduction: C over E.
            use_scale: divide the logits by the square root of E.
            conv_cfg: kind of convolution.
            norm_cfg: norm of the last convolution.
        """
        super().__init__()
        self.inner, self.use_scale = max(in_channels // reduction, 1), use_scale
        self._last = "conv" if norm_cfg is None else norm_name(norm_cfg)
        self.g = ConvModule(in_channels, self.inner, 1, conv_cfg=conv_cfg, act_cfg=None)
        self.conv_out = ConvModule(
            self.inner, in_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None
        )
        self.theta = ConvModule(in_channels, self.inner, 1, conv_cfg=conv_cfg, act_cfg=None)
        self.phi = ConvModule(in_channels, self.inner, 1, conv_cfg=conv_cfg, act_cfg=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        values = self.g(x).flatten(2).transpose(1, 2)
        queries, keys = self.theta(x).flatten(2).transpose(1, 2), self.phi(x).flatten(2)
        logits = queries @ keys
        if self.use_scale:
            logits = logits / self.inner**0.5
        mixed = (logits.softmax(dim=-1) @ values).transpose(1, 2).reshape(len(x), self.inner, *x.shape[2:])
        return x + self.conv_out(mixed)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal embeddings of std 0.01; a last layer of zeros, so that the block starts as identity."""
        for part in (self.g, self.theta, self.phi):
            normal_(part.conv, 0.01)
        last = getattr(self.conv_out, self._last)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
