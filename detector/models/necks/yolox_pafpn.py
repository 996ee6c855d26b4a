"""Path aggregation with cross stage partial blocks.

Shapes: B images, C_i channels of level i, fine levels first.
Paper: Ge et al., 2021, arXiv:2107.08430. Attribute names are the checkpoint format (MMDetection 2.28,
models/necks/yolox_pafpn.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detector.layers.conv import ConvModule
from detector.layers.csp import SWISH, YOLO_BN, YOLO_INIT, CSPLayer, spatial_conv
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.structures.specs import ActSpec, ConvSpec, NormSpec, UpsampleSpec

NEAREST = UpsampleSpec(scale_factor=2, mode="nearest")


class YOLOXPAFPN(nn.Module):
    """A way down from coarse to fine levels, a way up again, one output convolution per level."""

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        num_csp_blocks: int = 3,
        use_depthwise: bool = False,
        upsample_cfg: UpsampleSpec = NEAREST,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = YOLO_BN,
        act_cfg: ActSpec | None = SWISH,
        init_cfg: InitRules = YOLO_INIT,
    ) -> None:
        """Describe the neck.

        Args:
            in_channels: channels of each level, fine levels first.
            out_channels: channels of every output.
            num_csp_blocks: bottlenecks of each block.
            use_depthwise: depthwise separable 3x3 convolutions.
            upsample_cfg: how coarse maps grow.
            conv_cfg: convolutions.
            norm_cfg: norms.
            act_cfg: activations.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.in_channels, self.init_cfg = tuple(in_channels), init_cfg
        shared: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}

        def block(a: int, b: int) -> CSPLayer:
            return CSPLayer(
                a, b, num_blocks=num_csp_blocks, add_identity=False, use_depthwise=use_depthwise, **shared
            )

        self.upsample = nn.Upsample(
            scale_factor=upsample_cfg.scale_factor,
            mode=upsample_cfg.mode,
            align_corners=upsample_cfg.align_corners,
        )
        widths = self.in_channels
        down = range(len(widths) - 1, 0, -1)
        up = range(len(widths) - 1)
        self.reduce_layers = nn.ModuleList(ConvModule(widths[i], widths[i - 1], 1, **shared) for i in down)
        self.top_down_blocks = nn.ModuleList(block(widths[i - 1] * 2, widths[i - 1]) for i in down)
        self.downsamples = nn.ModuleList(
            spatial_conv(widths[i], widths[i], stride=2, use_depthwise=use_depthwise, **shared) for i in up
        )
        self.bottom_up_blocks = nn.ModuleList(block(widths[i] * 2, widths[i + 1]) for i in up)
        self.out_convs = nn.ModuleList(ConvModule(w, out_channels, 1, **shared) for w in widths)

    def init_weights(self) -> None:
        """Uniform Kaiming values unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L maps (B, C_i, h, w) give L maps (B, C_out, h, w)."""
        current, lateral = inputs[-1], []
        for finer, reduce, block in zip(
            reversed(inputs[:-1]), self.reduce_layers, self.top_down_blocks, strict=True
        ):
            reduced = reduce(current)
            lateral.append(reduced)
            current = block(torch.cat((self.upsample(reduced), finer), dim=1))
        outs = [current]
        for coarser, down, block in zip(
            reversed(lateral), self.downsamples, self.bottom_up_blocks, strict=True
        ):
            outs.append(block(torch.cat((down(outs[-1]), coarser), dim=1)))
        return tuple(conv(out) for conv, out in zip(self.out_convs, outs, strict=True))
