"""Class by linear layers, box by convolutions.

Shapes: K regions, C classes, P bins per side.
Paper: Wu et al., CVPR 2020, arXiv:1904.06493. Attribute names are the checkpoint format (MMDetection 2.28,
models/roi_heads/bbox_heads/double_bbox_head.py).
"""

from __future__ import annotations

from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, apply_rules, init_conv_modules, normal_, xavier_uniform_
from detector.models.backbones.resnet import BATCH_NORM, BlockSettings, Bottleneck
from detector.models.roi_heads.bbox_heads.bbox_head import LINEAR, BBoxHead
from detector.structures.specs import ConvSpec, NormSpec, PredictorSpec
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder


class WideningBlock(nn.Module):
    """A residual block of a 3 x 3 and a 1 x 1 convolution that changes the number of channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """All convolutions carry a batch norm."""
        super().__init__()
        self.conv1 = ConvModule(in_channels, in_channels, 3, padding=1, bias=False, norm_cfg=BATCH_NORM)
        self.conv2 = ConvModule(in_channels, out_channels, 1, bias=False, norm_cfg=BATCH_NORM, act_cfg=None)
        self.conv_identity = ConvModule(in_channels, out_channels, 1, norm_cfg=BATCH_NORM, act_cfg=None)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(K, in_channels, P, P) -> (K, out_channels, P, P)."""
        return self.relu(self.conv2(self.conv1(x)) + self.conv_identity(x))


class DoubleConvFCBBoxHead(BBoxHead):
    """Two branches that may look at differently sized regions."""

    def __init__(
        self,
        *,
        num_convs: int = 0,
        num_fcs: int = 0,
        conv_out_channels: int = 1024,
        fc_out_channels: int = 1024,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec = BATCH_NORM,
        num_classes: int = 80,
        bbox_coder: DeltaXYWHBBoxCoder | None = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        in_channels: int = 256,
        roi_feat_size: int = 7,
        with_avg_pool: bool = True,
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        reg_predictor_cfg: PredictorSpec = LINEAR,
        cls_predictor_cfg: PredictorSpec = LINEAR,
        init_cfg: InitRules = None,
    ) -> None:
        """Numbers of bottlenecks and of linear layers, and their widths; the rest as in ``BBoxHead``."""
        if num_convs < 1 or num_fcs < 1 or not with_avg_pool:
            raise ConfigError(
                f"DoubleConvFCBBoxHead: found num_convs={num_convs}, num_fcs={num_fcs}, "
                f"with_avg_pool={with_avg_pool}; expected at least 1, at least 1 and True."
            )
        super().__init__(
            num_classes=num_classes,
            bbox_coder=bbox_coder,
            loss_cls=loss_cls,
            loss_bbox=loss_bbox,
            in_channels=in_channels,
            roi_feat_size=roi_feat_size,
            with_avg_pool=with_avg_pool,
            with_cls=False,
            with_reg=False,
            reg_class_agnostic=reg_class_agnostic,
            reg_decoded_bbox=reg_decoded_bbox,
            reg_predictor_cfg=reg_predictor_cfg,
            cls_predictor_cfg=cls_predictor_cfg,
            init_cfg=init_cfg,
        )
        self.with_cls = self.with_reg = True
        self.res_block = WideningBlock(in_channels, conv_out_channels)
        settings = BlockSettings(conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.conv_branch = nn.ModuleList(
            Bottleneck(
                conv_out_channels,
                conv_out_channels // 4,
                stride=1,
                dilation=1,
                downsample=None,
                settings=settings,
            )
            for _ in range(num_convs)
        )
        widths = [in_channels * self.roi_feat_area] + [fc_out_channels] * num_fcs
        self.fc_branch = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(num_fcs))
        self._make_predictors(fc_out_channels, conv_out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, x_reg: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (K, C + 1) of one and deltas (K, 4 * C or 4) of the other features.

        Args:
            x: (K, in_channels, P, P) for the class.
            x_reg: (K, in_channels, P, P) for the box; None takes ``x``.
        """
        boxes = self.res_block(x if x_reg is None else x_reg)
        for block in self.conv_branch:
            boxes = block(boxes)
        classes = x.flatten(1)
        for fc in self.fc_branch:
            classes = self.relu(fc(classes))
        return self.fc_cls(classes), self.fc_reg(self.avg_pool(boxes).flatten(1))

    def init_weights(self) -> None:
        """Xavier uniform hidden layers, normal last layers (std 0.01 and 0.001), or ``init_cfg``."""
        init_conv_modules(self)
        if self.init_cfg is not None:
            apply_rules(self, self.init_cfg)
            return
        for fc in self.fc_branch:
            xavier_uniform_(fc)
        normal_(self.fc_cls, 0.01)
        normal_(self.fc_reg, 0.001)
