"""A ResNet stage on region features (the C4 models).

Shapes: K regions, C channels, P bins per side.
Attribute names are the checkpoint format (MMDetection 2.28, models/roi_heads/shared_heads/res_layer.py).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.layers.init import InitRules, apply_rules
from detector.models.backbones.resnet import BATCH_NORM, BlockSettings, architecture, make_stage
from detector.structures.specs import InitSpec, NormSpec


class ResLayer(nn.Module):
    """Stage ``stage`` (0-based) of a ResNet as ``layer<stage + 1>``."""

    def __init__(
        self,
        *,
        depth: int,
        stage: int = 3,
        stride: int = 2,
        dilation: int = 1,
        style: str = "pytorch",
        norm_cfg: NormSpec = BATCH_NORM,
        norm_eval: bool = True,
        with_cp: bool = False,
        init_cfg: InitRules = None,
    ) -> None:
        """Arguments as in ``ResNet``."""
        super().__init__()
        block, counts = architecture(depth)
        self.norm_eval, self.init_cfg, self._name = norm_eval, init_cfg, f"layer{stage + 1}"
        self.out_channels = 64 * 2**stage * block.expansion
        layer = make_stage(
            block,
            64 * 2 ** (stage - 1) * block.expansion,
            64 * 2**stage,
            counts[stage],
            stride=stride,
            dilation=dilation,
            settings=BlockSettings(style=style, with_cp=with_cp, norm_cfg=norm_cfg),
        )
        self.add_module(self._name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """(K, C, P, P) -> (K, C', P', P')."""
        return getattr(self, self._name)(x)

    def train(self, mode: bool = True) -> ResLayer:
        """Switch mode; with ``norm_eval`` batch norms stay in eval mode."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Kaiming convolutions and unit batch norms unless ``init_cfg`` says otherwise."""
        default = [
            InitSpec(type="Kaiming", layer="Conv2d"),
            InitSpec(type="Constant", val=1.0, layer="BatchNorm2d"),
        ]
        apply_rules(self, default if self.init_cfg is None else self.init_cfg)
