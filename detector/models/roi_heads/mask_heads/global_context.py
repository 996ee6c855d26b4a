"""Which classes an image holds, and the features that say so (SCNet).

Shapes: B images, L levels, C classes.
Paper: Vu et al., AAAI 2021, arXiv:2012.10150. Attribute names are the checkpoint format (MMDetection 2.28,
mask_heads/global_context_head.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules
from detector.models.roi_heads.mask_heads.scnet_blocks import residual_convs
from detector.structures.samples import Targets
from detector.structures.specs import ConvSpec, InitSpec, NormSpec

NORMAL_FC = InitSpec(type="Normal", std=0.01, override={"name": "fc"})


class GlobalContextHead(nn.Module):
    """Convolutions on the coarsest level, their mean, and one linear layer."""

    def __init__(
        self,
        *,
        num_convs: int = 4,
        in_channels: int = 256,
        conv_out_channels: int = 256,
        num_classes: int = 80,
        loss_weight: float = 1.0,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        conv_to_res: bool = False,
        init_cfg: InitRules = NORMAL_FC,
    ) -> None:
        """Describe the head.

        Args:
            num_convs: convolutions before the mean.
            in_channels: channels of the level.
            conv_out_channels: channels of the convolutions.
            num_classes: C.
            loss_weight: factor of the loss.
            conv_cfg: kind of convolution.
            norm_cfg: kind of norm.
            conv_to_res: turn pairs of convolutions into residual blocks.
            init_cfg: rules for the initial values.
        """
        super().__init__()
        self.loss_weight, self.init_cfg = loss_weight, init_cfg
        if conv_to_res:
            self.convs: nn.Module = residual_convs(
                num_convs, in_channels, conv_out_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg
            )
        else:
            widths = (in_channels, *([conv_out_channels] * num_convs))
            self.convs = nn.Sequential(
                *(
                    ConvModule(before, after, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
                    for before, after in pairwise(widths)
                )
            )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(conv_out_channels, num_classes)

    def init_weights(self) -> None:
        """Normal linear layer (std 0.01) unless ``init_cfg`` says otherwise."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L maps give logits (B, C) and the context (B, conv_out_channels, 1, 1)."""
        context = self.pool(self.convs(feats[-1]))
        return self.fc(context.flatten(1)), context

    def loss(self, logits: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Mean binary cross entropy of (B, C) logits against the classes each image holds."""
        present = logits.new_zeros(logits.shape)
        for row, target in zip(present, targets, strict=True):
            row[target.labels] = 1.0
        return self.loss_weight * functional.binary_cross_entropy_with_logits(logits, present)
