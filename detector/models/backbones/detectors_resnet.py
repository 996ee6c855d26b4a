"""DetectoRS' ResNet and ResNeXt: switchable atrous convolutions, and an entrance for pyramid features.

Shapes: B images, H x W network input; stage i gives (B, C_i, H / 2^(i+2), W / 2^(i+2)) with the default
strides.
Paper: Qiao et al., CVPR 2021, arXiv:2006.02334.
Attribute names are the checkpoint format (MMDetection 2.28, models/backbones/detectors_resnet.py,
detectors_resnext.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from detector.layers.deform_conv import zero_
from detector.layers.sac import SAConv2d
from detector.models.backbones.resnet import Architectures, BlockSettings, Bottleneck, ResNet
from detector.structures.specs import ConvSpec


@dataclass(frozen=True)
class SwitchableSettings(BlockSettings):
    """What the blocks of a stage share; ``rfp_inplanes`` are the channels of the pyramid's features."""

    sac: ConvSpec | None = None
    rfp_inplanes: int | None = None

    @property
    def middle_conv(self) -> ConvSpec | None:
        """Kind of the 3 x 3 convolution: the switchable one where there is one."""
        return self.sac or super().middle_conv


class SwitchableBottleneck(Bottleneck):
    """Bottleneck whose sum may include features of the pyramid, projected by ``rfp_conv``."""

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
        settings: SwitchableSettings,
    ) -> None:
        """Arguments as in ``Bottleneck``; the block that opens a stage (and projects) takes the features."""
        super().__init__(
            in_channels, planes, stride=stride, dilation=dilation, downsample=downsample, settings=settings
        )
        self.rfp_conv = None
        if settings.rfp_inplanes is not None and downsample is not None:
            self.rfp_conv = nn.Conv2d(settings.rfp_inplanes, planes * self.expansion, 1)

    def rfp_forward(self, x: Tensor, rfp_feat: Tensor | None) -> Tensor:
        """(B, C, H, W) and features (B, rfp_inplanes, H', W') give (B, C', H', W')."""
        out = self.summed(x)
        if self.rfp_conv is not None and rfp_feat is not None:
            out = out + self.rfp_conv(rfp_feat)
        return self.relu(out)


class DetectoRSResNet(ResNet):
    """ResNet of depth 50, 101 or 152 for DetectoRS; with ``groups`` a ResNeXt."""

    architectures: ClassVar[Architectures] = {
        50: (SwitchableBottleneck, (3, 4, 6, 3)),
        101: (SwitchableBottleneck, (3, 4, 23, 3)),
        152: (SwitchableBottleneck, (3, 8, 36, 3)),
    }

    def __init__(
        self,
        *,
        sac: ConvSpec | None = None,
        stage_with_sac: Sequence[bool] = (False, False, False, False),
        rfp_inplanes: int | None = None,
        output_img: bool = False,
        **kwargs: object,
    ) -> None:
        """Describe the network.

        Args:
            sac: switchable atrous convolution in place of the 3 x 3 ones.
            stage_with_sac: stages with such convolutions.
            rfp_inplanes: channels of the pyramid's features, for ``rfp_forward``.
            output_img: put the image in front of the outputs, as RFP needs it.
            kwargs: the arguments of ``ResNet``.
        """
        # plain values, read while the stages are built
        self._sac = tuple(sac if switch else None for switch in stage_with_sac)
        self._rfp_inplanes, self.output_img = rfp_inplanes, output_img
        super().__init__(**kwargs)  # type: ignore[arg-type]

    def block_settings(self, shared: BlockSettings) -> SwitchableSettings:
        """Settings that can hold a switchable convolution."""
        return SwitchableSettings(**vars(shared))

    def stage_settings(self, index: int) -> BlockSettings:
        """Switchable convolutions where asked for; features enter every stage but the first."""
        return replace(  # type: ignore[call-arg]
            super().stage_settings(index),
            sac=self._sac[index] if index < len(self._sac) else None,
            rfp_inplanes=self._rfp_inplanes if index > 0 else None,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) gives the maps of ``out_indices``, after the image itself with ``output_img``."""
        outputs = super().forward(x)
        return (x, *outputs) if self.output_img else outputs

    def rfp_forward(self, x: Tensor, rfp_feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """(B, 3, H, W) and one map per stage (the first is not used) give the maps of ``out_indices``."""
        x = self.enter(x)
        outputs = []
        for i, name in enumerate(self._stages):
            for block in getattr(self, name):
                x = block.rfp_forward(x, rfp_feats[i] if i > 0 else None)
            if i in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    @torch.no_grad()
    def init_weights(self) -> None:
        """As in ``ResNet``; pyramid features enter with weight zero, switches as ``SAConv2d`` says."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, SAConv2d):
                module.init_weights()
            elif isinstance(module, SwitchableBottleneck) and module.rfp_conv is not None:
                zero_(module.rfp_conv)
