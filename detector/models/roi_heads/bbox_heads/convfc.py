"""Box heads with shared and separate convolutions and linear layers.

Shapes: K regions, C classes, P bins per side.
Attribute names are the checkpoint format (MMDetection 2.28, models/roi_heads/bbox_heads/convfc_bbox_head.py).
"""

from __future__ import annotations

from torch import Tensor, nn

from detector.layers.conv import ConvModule
from detector.layers.init import InitRules, init_conv_modules, xavier_uniform_
from detector.models.roi_heads.bbox_heads.bbox_head import LINEAR, BBoxHead
from detector.structures.specs import ConvSpec, NormSpec, PredictorSpec
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder


class ConvFCBBoxHead(BBoxHead):
    """Shared convs, shared linear layers, then own convs and linear layers for class and box."""

    def __init__(
        self,
        *,
        num_classes: int = 80,
        bbox_coder: DeltaXYWHBBoxCoder | None = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        num_shared_convs: int = 0,
        num_shared_fcs: int = 0,
        num_cls_convs: int = 0,
        num_cls_fcs: int = 0,
        num_reg_convs: int = 0,
        num_reg_fcs: int = 0,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        in_channels: int = 256,
        roi_feat_size: int = 7,
        with_avg_pool: bool = False,
        with_cls: bool = True,
        with_reg: bool = True,
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        reg_predictor_cfg: PredictorSpec = LINEAR,
        cls_predictor_cfg: PredictorSpec = LINEAR,
        init_cfg: InitRules = None,
    ) -> None:
        """Numbers of layers and their widths; the rest as in ``BBoxHead``. Only convolutions carry a norm."""
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
        self.with_cls, self.with_reg, self.num_shared_fcs = with_cls, with_reg, num_shared_fcs
        self._conv_width, self._fc_width, self._conv_cfg, self._norm_cfg = (
            conv_out_channels,
            fc_out_channels,
            conv_cfg,
            norm_cfg,
        )
        self.shared_convs, self.shared_fcs, width = self._branch(
            num_shared_convs, num_shared_fcs, in_channels, shared=True
        )
        self.cls_convs, self.cls_fcs, cls_width = self._branch(num_cls_convs, num_cls_fcs, width)
        self.reg_convs, self.reg_fcs, reg_width = self._branch(num_reg_convs, num_reg_fcs, width)
        if num_shared_fcs == 0 and not with_avg_pool:
            cls_width *= self.roi_feat_area if num_cls_fcs == 0 else 1
            reg_width *= self.roi_feat_area if num_reg_fcs == 0 else 1
        self.relu = nn.ReLU(inplace=True)
        self._make_predictors(cls_width, reg_width)

    def _branch(
        self, num_convs: int, num_fcs: int, width: int, *, shared: bool = False
    ) -> tuple[nn.ModuleList, nn.ModuleList, int]:
        """Convs, linear layers and the width after them."""
        convs, fcs = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_convs):
            convs.append(
                ConvModule(
                    width, self._conv_width, 3, padding=1, conv_cfg=self._conv_cfg, norm_cfg=self._norm_cfg
                )
            )
            width = self._conv_width
        if num_fcs and (shared or self.num_shared_fcs == 0) and not self.with_avg_pool:
            width *= self.roi_feat_area
        for _ in range(num_fcs):
            fcs.append(nn.Linear(width, self._fc_width))
            width = self._fc_width
        return convs, fcs, width

    def _flatten(self, x: Tensor) -> Tensor:
        if x.dim() > 2:
            x = (self.avg_pool(x) if self.with_avg_pool else x).flatten(1)
        return x

    def _run(self, x: Tensor, convs: nn.ModuleList, fcs: nn.ModuleList) -> Tensor:
        for conv in convs:
            x = conv(x)
        if len(fcs):
            x = self._flatten(x)
        for fc in fcs:
            x = self.relu(fc(x))
        return x

    def shared(self, x: Tensor) -> Tensor:
        """(K, in_channels, P, P) gives what both branches start from."""
        return self._run(x, self.shared_convs, self.shared_fcs)

    def separate(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Shared features give logits (K, C + 1), background last, and deltas (K, 4 * C or 4)."""
        cls = self._flatten(self._run(x, self.cls_convs, self.cls_fcs))
        reg = self._flatten(self._run(x, self.reg_convs, self.reg_fcs))
        return self.fc_cls(cls), self.fc_reg(reg) if self.with_reg else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(K, in_channels, P, P) gives logits (K, C + 1), background last, and deltas (K, 4 * C or 4)."""
        return self.separate(self.shared(x))

    def init_weights(self) -> None:
        """As ``BBoxHead``, with Xavier uniform linear layers."""
        init_conv_modules(self)
        super().init_weights()
        if self.init_cfg is None:
            for fc in (*self.shared_fcs, *self.cls_fcs, *self.reg_fcs):
                xavier_uniform_(fc)


class Shared2FCBBoxHead(ConvFCBBoxHead):
    """Two shared linear layers."""

    def __init__(
        self,
        *,
        num_classes: int = 80,
        bbox_coder: DeltaXYWHBBoxCoder | None = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        fc_out_channels: int = 1024,
        conv_out_channels: int = 256,
        conv_cfg: ConvSpec | None = None,
        norm_cfg: NormSpec | None = None,
        in_channels: int = 256,
        roi_feat_size: int = 7,
        with_avg_pool: bool = False,
        with_cls: bool = True,
        with_reg: bool = True,
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        reg_predictor_cfg: PredictorSpec = LINEAR,
        cls_predictor_cfg: PredictorSpec = LINEAR,
        init_cfg: InitRules = None,
    ) -> None:
        """Arguments as in ``ConvFCBBoxHead``."""
        super().__init__(
            num_classes=num_classes,
            bbox_coder=bbox_coder,
            loss_cls=loss_cls,
            loss_bbox=loss_bbox,
            num_shared_convs=self.shared_convolutions,
            num_shared_fcs=self.shared_linear_layers,
            fc_out_channels=fc_out_channels,
            conv_out_channels=conv_out_channels,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            in_channels=in_channels,
            roi_feat_size=roi_feat_size,
            with_avg_pool=with_avg_pool,
            with_cls=with_cls,
            with_reg=with_reg,
            reg_class_agnostic=reg_class_agnostic,
            reg_decoded_bbox=reg_decoded_bbox,
            reg_predictor_cfg=reg_predictor_cfg,
            cls_predictor_cfg=cls_predictor_cfg,
            init_cfg=init_cfg,
        )

    shared_convolutions = 0
    shared_linear_layers = 2


class Shared4Conv1FCBBoxHead(Shared2FCBBoxHead):
    """Four shared convolutions and one shared linear layer."""

    shared_convolutions = 4
    shared_linear_layers = 1
