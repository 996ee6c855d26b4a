"""Neck of YOLOv3: coarse maps are narrowed, doubled in size and laid beside the finer ones.

Shapes: B images, L maps; input fine to coarse, output coarse to fine.
Boxes: none.
Paper: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767.
Attribute names are the checkpoint format (MMDetection 2.28, models/necks/yolo_neck.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.structures.specs import ActSpec, ConvSpec, NormSpec

BATCH_NORM = NormSpec(type="BN")
LEAKY = ActSpec(type="LeakyReLU", negative_slope=0.1)


class DetectionBlock(nn.Sequential):
    """Five convolutions, alternately 1 x 1 to C channels and 3 x 3 to 2 C."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        conv_cfg: ConvSpec | None,
        norm_cfg: NormSpec | None,
        act_cfg: ActSpec | None,
    ) -> None:
        """``out_channels`` is C."""
        super().__init__()
        width = in_channels
        for i in range(5):
            wide = i % 2 == 1
            target = out_channels * 2 if wide else out_channels
            conv = ConvModule(
                width,
                target,
                3 if wide else 1,
                padding=1 if wide else 0,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
                act_cfg=act_cfg,
            )
            self.add_module(f"conv{i + 1}", conv)
            width = target


class YOLOV3Neck(nn.Module):
    """Top-down pathway by concatenation."""

    def __init__(
        self,
        *,
        num_scales: int,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = BATCH_NORM,
        act_cfg: ActSpec = LEAKY,
        init_cfg: InitRules = None,
    ) -> None:
        """Describe the neck.

        Args:
            num_scales: number of maps.
            in_channels: channels of the input maps, coarse to fine.
            out_channels: channels of the output maps, coarse to fine.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            act_cfg: kind of activation.
            init_cfg: rules for the initial values.

        Raises:
            ConfigError: the numbers of channels are not ``num_scales`` many.
        """
        super().__init__()
        if not num_scales == len(in_channels) == len(out_channels):
            raise ConfigError(
                f"YOLOV3Neck: found {len(in_channels)} in_channels and {len(out_channels)} out_channels; "
                f"expected num_scales={num_scales} of each."
            )
        self.num_scales, self.init_cfg = num_scales, init_cfg
        self.detect1 = DetectionBlock(
            in_channels[0], out_channels[0], conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        for i in range(1, num_scales):
            width = out_channels[i]
            narrow = ConvModule(
                out_channels[i - 1], width, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
            )
            self.add_module(f"conv{i}", narrow)
            block = DetectionBlock(
                in_channels[i] + width, width, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
            )
            self.add_module(f"detect{i + 1}", block)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """L maps, fine to coarse, give L maps, coarse to fine; sizes must halve from map to map."""
        out = self.detect1(feats[-1])
        outputs = [out]
        for i in range(1, self.num_scales):
            grown = functional.interpolate(getattr(self, f"conv{i}")(out), scale_factor=2)
            out = getattr(self, f"detect{i + 1}")(torch.cat((grown, feats[-1 - i]), dim=1))
            outputs.append(out)
        return tuple(outputs)

    def init_weights(self) -> None:
        """Kaiming convolutions unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
