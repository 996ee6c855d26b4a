"""The activation - convolution - norm block.

Shapes: B images, C_in and C_out channels, H x W map.
Attribute names are the checkpoint format (mmcv 1.7 cnn/bricks/conv_module.py, order act, conv, norm).
"""

from __future__ import annotations

from torch import Tensor

from detector.layers.conv import ConvModule


class PreActConvModule(ConvModule):
    """ConvModule whose activation comes first."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        x = self.conv(x if self.activate is None else self.activate(x))
        return x if self._norm_name is None else getattr(self, self._norm_name)(x)
