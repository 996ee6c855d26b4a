"""The parts of TOOD's head: features weighed per task, joint scores, box sides read at offsets.

Shapes: B images, F channels, N stacked convolutions, h x w cells.
Boxes: four sides per cell, in strides.
Paper: Feng et al., ICCV 2021, arXiv:2108.07755. Attribute names are the checkpoint format (MMDetection 2.28,
models/dense_heads/tood_head.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import deform_conv2d

from detector.layers.conv import ConvModule
from detector.layers.init import normal_
from detector.layers.norm import norm_name
from detector.structures.specs import ConvSpec, NormSpec


def geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    """Root of the product of the sigmoids of two logits, through logarithms so that gradients stay finite."""
    return ((functional.logsigmoid(a) + functional.logsigmoid(b)) / 2).exp()


def shifted_sides(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Each side of (B, 4, h, w) boxes read at its own offset in cells, (B, 8, h, w) rows and columns."""
    return deform_conv2d(boxes.contiguous(), offsets.contiguous(), boxes.new_ones(4, 1, 1, 1))


class TaskDecomposition(nn.Module):
    """The stacked features weighed per layer by their global average, then mixed."""

    def __init__(
        self,
        feat_channels: int,
        stacked_convs: int,
        la_down_rate: int = 8,
        *,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
    ) -> None:
        """``la_down_rate`` is the channels of the features over those inside the attention."""
        super().__init__()
        self.feat_channels, self.stacked_convs = feat_channels, stacked_convs
        width = feat_channels * stacked_convs
        self.layer_attention = nn.Sequential(
            nn.Conv2d(width, width // la_down_rate, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // la_down_rate, stacked_convs, 1),
            nn.Sigmoid(),
        )
        self.reduction_conv = ConvModule(width, feat_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self._norm = None if norm_cfg is None else norm_name(norm_cfg)

    def init_weights(self) -> None:
        """Normal weights."""
        for layer in (self.layer_attention[0], self.layer_attention[2]):
            normal_(layer, 0.001)
        normal_(self.reduction_conv.conv, 0.01)

    def forward(self, feat: Tensor, average: Tensor) -> Tensor:
        """(B, N * F, h, w) and their means (B, N * F, 1, 1) give (B, F, h, w)."""
        batch, width, height, columns = feat.shape
        shares = self.layer_attention(average).reshape(batch, 1, self.stacked_convs, 1)
        kernel = self.reduction_conv.conv.weight.reshape(
            1, self.feat_channels, self.stacked_convs, self.feat_channels
        )
        kernels = (shares * kernel).reshape(batch, self.feat_channels, width)
        mixed = torch.bmm(kernels, feat.flatten(2)).reshape(batch, self.feat_channels, height, columns)
        if self._norm is not None:
            mixed = getattr(self.reduction_conv, self._norm)(mixed)
        return functional.relu(mixed)
