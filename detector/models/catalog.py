"""MMDetection type name to class: the one place that says what a config may name."""

from __future__ import annotations

from detector.losses.cross_entropy import CrossEntropyLoss
from detector.losses.iou import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss
from detector.losses.smooth_l1 import L1Loss, SmoothL1Loss
from detector.models.backbones.resnet import ResNet, ResNetV1d, ResNeXt
from detector.models.dense_heads.rpn import RPNHead
from detector.models.detectors.two_stage import RPN, TwoStageDetector
from detector.models.necks.fpn import FPN, PAFPN
from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead
from detector.models.roi_heads.bbox_heads.convfc import (
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from detector.models.roi_heads.extractors.single_level import SingleRoIExtractor
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.shared_heads.res_layer import ResLayer
from detector.models.roi_heads.standard import StandardRoIHead
from detector.targets.assigners.max_iou import MaxIoUAssigner
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.samplers.pseudo import PseudoSampler
from detector.targets.samplers.random import RandomSampler

CATALOG: dict[str, type] = {
    # detectors
    "FasterRCNN": TwoStageDetector,
    "MaskRCNN": TwoStageDetector,
    "TwoStageDetector": TwoStageDetector,
    "RPN": RPN,
    # backbones
    "ResNet": ResNet,
    "ResNetV1d": ResNetV1d,
    "ResNeXt": ResNeXt,
    # necks
    "FPN": FPN,
    "PAFPN": PAFPN,
    # dense heads
    "RPNHead": RPNHead,
    # region heads
    "StandardRoIHead": StandardRoIHead,
    "SingleRoIExtractor": SingleRoIExtractor,
    "BBoxHead": BBoxHead,
    "ConvFCBBoxHead": ConvFCBBoxHead,
    "Shared2FCBBoxHead": Shared2FCBBoxHead,
    "Shared4Conv1FCBBoxHead": Shared4Conv1FCBBoxHead,
    "FCNMaskHead": FCNMaskHead,
    "ResLayer": ResLayer,
    # losses
    "CrossEntropyLoss": CrossEntropyLoss,
    "L1Loss": L1Loss,
    "SmoothL1Loss": SmoothL1Loss,
    "IoULoss": IoULoss,
    "GIoULoss": GIoULoss,
    "DIoULoss": DIoULoss,
    "CIoULoss": CIoULoss,
    "BoundedIoULoss": BoundedIoULoss,
    # targets
    "AnchorGenerator": AnchorGenerator,
    "DeltaXYWHBBoxCoder": DeltaXYWHBBoxCoder,
    "MaxIoUAssigner": MaxIoUAssigner,
    "RandomSampler": RandomSampler,
    "PseudoSampler": PseudoSampler,
}
