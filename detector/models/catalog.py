"""MMDetection type name to class: the one place that says what a config may name."""

from __future__ import annotations

from detector.layers.context_block import ContextBlockPlugin
from detector.layers.conv import ConvModule
from detector.layers.generalized_attention import GeneralizedAttentionPlugin
from detector.losses.balanced_l1 import BalancedL1Loss
from detector.losses.cross_entropy import CrossEntropyLoss
from detector.losses.dice import DiceLoss
from detector.losses.focal import FocalLoss
from detector.losses.gfocal import DistributionFocalLoss, QualityFocalLoss
from detector.losses.ghm import GHMC, GHMR
from detector.losses.iou import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss
from detector.losses.kd import KnowledgeDistillationKLDivLoss
from detector.losses.mse import MSELoss
from detector.losses.seesaw import SeesawLoss
from detector.losses.smooth_l1 import L1Loss, SmoothL1Loss
from detector.losses.varifocal import VarifocalLoss
from detector.models.backbones.csp_darknet import CSPDarknet
from detector.models.backbones.darknet import Darknet
from detector.models.backbones.detectors_resnet import DetectoRSResNet
from detector.models.backbones.hrnet import HRNet
from detector.models.backbones.mobilenet_v2 import MobileNetV2
from detector.models.backbones.pvt import PyramidVisionTransformer, PyramidVisionTransformerV2
from detector.models.backbones.regnet import RegNet
from detector.models.backbones.res2net import Res2Net
from detector.models.backbones.resnest import ResNeSt
from detector.models.backbones.resnet import ResNet, ResNetV1d, ResNeXt
from detector.models.backbones.ssd_vgg import SSDVGG
from detector.models.backbones.swin import SwinTransformer
from detector.models.dense_heads.anchor_head import AnchorHead
from detector.models.dense_heads.atss import ATSSHead
from detector.models.dense_heads.autoassign import AutoAssignHead
from detector.models.dense_heads.ddod import DDODHead
from detector.models.dense_heads.fcos import FCOSHead
from detector.models.dense_heads.fovea import FoveaHead
from detector.models.dense_heads.free_anchor import FreeAnchorRetinaHead
from detector.models.dense_heads.fsaf import FSAFHead
from detector.models.dense_heads.gfl import GFLHead
from detector.models.dense_heads.guided_anchor import GuidedAnchorHead
from detector.models.dense_heads.guided_anchor_heads import GARetinaHead, GARPNHead
from detector.models.dense_heads.ld import LDHead
from detector.models.dense_heads.nas_fcos import NASFCOSHead
from detector.models.dense_heads.paa import PAAHead
from detector.models.dense_heads.pisa_retina import PISARetinaHead
from detector.models.dense_heads.reppoints import RepPointsHead
from detector.models.dense_heads.retina import RetinaHead
from detector.models.dense_heads.retina_sepbn import RetinaSepBNHead
from detector.models.dense_heads.rpn import RPNHead
from detector.models.dense_heads.sabl_retina import SABLRetinaHead
from detector.models.dense_heads.solo import DecoupledSOLOHead, DecoupledSOLOLightHead, SOLOHead
from detector.models.dense_heads.solov2 import SOLOV2Head
from detector.models.dense_heads.ssd import SSDHead
from detector.models.dense_heads.tood import TOODHead
from detector.models.dense_heads.vfnet import VFNetHead
from detector.models.dense_heads.yolo import YOLOV3Head
from detector.models.dense_heads.yolof import YOLOFHead
from detector.models.dense_heads.yolox import YOLOXHead
from detector.models.detectors.distillation import KnowledgeDistillationSingleStageDetector
from detector.models.detectors.fast_rcnn import FastRCNN
from detector.models.detectors.instance import SingleStageInstanceSegmentor
from detector.models.detectors.single_stage import SingleStageDetector
from detector.models.detectors.two_stage import RPN, TwoStageDetector
from detector.models.detectors.yolox import YOLOX
from detector.models.necks.bfp import BFP
from detector.models.necks.channel_mapper import ChannelMapper
from detector.models.necks.dilated_encoder import DilatedEncoder
from detector.models.necks.dyhead import DyHead
from detector.models.necks.fpg import FPG
from detector.models.necks.fpn import FPN, PAFPN
from detector.models.necks.hrfpn import HRFPN
from detector.models.necks.nas_fcos_fpn import NASFCOS_FPN
from detector.models.necks.nas_fpn import NASFPN
from detector.models.necks.rfp import RFP
from detector.models.necks.ssd_neck import SSDNeck
from detector.models.necks.yolo_neck import YOLOV3Neck
from detector.models.necks.yolox_pafpn import YOLOXPAFPN
from detector.models.roi_heads.bbox_heads.bbox_head import BBoxHead
from detector.models.roi_heads.bbox_heads.convfc import (
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from detector.models.roi_heads.bbox_heads.double_convfc import DoubleConvFCBBoxHead
from detector.models.roi_heads.bbox_heads.scnet import SCNetBBoxHead
from detector.models.roi_heads.cascade import CascadeRoIHead
from detector.models.roi_heads.double_head import DoubleHeadRoIHead
from detector.models.roi_heads.dynamic import DynamicRoIHead
from detector.models.roi_heads.extractors.generic import GenericRoIExtractor
from detector.models.roi_heads.extractors.single_level import SingleRoIExtractor
from detector.models.roi_heads.grid import GridRoIHead
from detector.models.roi_heads.htc import HybridTaskCascadeRoIHead
from detector.models.roi_heads.mask_heads.coarse import CoarseMaskHead
from detector.models.roi_heads.mask_heads.fcn import FCNMaskHead
from detector.models.roi_heads.mask_heads.feature_relay import FeatureRelayHead
from detector.models.roi_heads.mask_heads.fused_semantic import FusedSemanticHead
from detector.models.roi_heads.mask_heads.global_context import GlobalContextHead
from detector.models.roi_heads.mask_heads.grid import GridHead
from detector.models.roi_heads.mask_heads.htc import HTCMaskHead
from detector.models.roi_heads.mask_heads.mask_point import MaskPointHead
from detector.models.roi_heads.mask_heads.maskiou import MaskIoUHead
from detector.models.roi_heads.mask_heads.scnet_mask import SCNetMaskHead
from detector.models.roi_heads.mask_heads.scnet_semantic import SCNetSemanticHead
from detector.models.roi_heads.mask_scoring import MaskScoringRoIHead
from detector.models.roi_heads.pisa import PISARoIHead
from detector.models.roi_heads.point_rend import PointRendRoIHead
from detector.models.roi_heads.scnet import SCNetRoIHead
from detector.models.roi_heads.shared_heads.res_layer import ResLayer
from detector.models.roi_heads.standard import StandardRoIHead
from detector.targets.assigners.approx_max_iou import ApproxMaxIoUAssigner
from detector.targets.assigners.atss import ATSSAssigner
from detector.targets.assigners.center_region import CenterRegionAssigner
from detector.targets.assigners.grid import GridAssigner
from detector.targets.assigners.max_iou import MaxIoUAssigner
from detector.targets.assigners.point import PointAssigner
from detector.targets.assigners.sim_ota import SimOTAAssigner
from detector.targets.assigners.task_aligned import TaskAlignedAssigner
from detector.targets.assigners.uniform import UniformAssigner
from detector.targets.coders.bucketing import BucketingBBoxCoder
from detector.targets.coders.delta_xywh import DeltaXYWHBBoxCoder
from detector.targets.coders.distance_point import DistancePointBBoxCoder
from detector.targets.coders.legacy_delta_xywh import LegacyDeltaXYWHBBoxCoder
from detector.targets.coders.tblr import TBLRBBoxCoder
from detector.targets.coders.yolo import YOLOBBoxCoder
from detector.targets.priors.anchors import AnchorGenerator
from detector.targets.priors.legacy_anchors import LegacyAnchorGenerator, LegacySSDAnchorGenerator
from detector.targets.priors.points import MlvlPointGenerator
from detector.targets.priors.ssd_anchors import SSDAnchorGenerator
from detector.targets.priors.yolo_anchors import YOLOAnchorGenerator
from detector.targets.samplers.combined import (
    CombinedSampler,
    InstanceBalancedPosSampler,
    IoUBalancedNegSampler,
)
from detector.targets.samplers.ohem import OHEMSampler
from detector.targets.samplers.pseudo import PseudoSampler
from detector.targets.samplers.random import RandomSampler
from detector.targets.samplers.score_hlr import ScoreHLRSampler

CATALOG: dict[str, type] = {
    # detectors
    "CascadeRCNN": TwoStageDetector,
    "FasterRCNN": TwoStageDetector,
    "HybridTaskCascade": TwoStageDetector,
    "MaskRCNN": TwoStageDetector,
    "SCNet": TwoStageDetector,
    "TwoStageDetector": TwoStageDetector,
    "RPN": RPN,
    "SingleStageDetector": SingleStageDetector,
    "RetinaNet": SingleStageDetector,
    "ATSS": SingleStageDetector,
    "GFL": SingleStageDetector,
    "PAA": SingleStageDetector,
    "DDOD": SingleStageDetector,
    "KnowledgeDistillationSingleStageDetector": KnowledgeDistillationSingleStageDetector,
    "FCOS": SingleStageDetector,
    "FSAF": SingleStageDetector,
    "FOVEA": SingleStageDetector,
    "NASFCOS": SingleStageDetector,
    "VFNet": SingleStageDetector,
    "TOOD": SingleStageDetector,
    "AutoAssign": SingleStageDetector,
    "YOLOF": SingleStageDetector,
    "RepPointsDetector": SingleStageDetector,
    "YOLOV3": SingleStageDetector,
    "GridRCNN": TwoStageDetector,
    "YOLOX": YOLOX,
    "MaskScoringRCNN": TwoStageDetector,
    "PointRend": TwoStageDetector,
    "FastRCNN": FastRCNN,
    "SOLO": SingleStageInstanceSegmentor,
    "SOLOv2": SingleStageInstanceSegmentor,
    # backbones
    "ResNet": ResNet,
    "ResNetV1d": ResNetV1d,
    "ResNeXt": ResNeXt,
    "DetectoRS_ResNet": DetectoRSResNet,
    "DetectoRS_ResNeXt": DetectoRSResNet,
    "HRNet": HRNet,
    "PyramidVisionTransformer": PyramidVisionTransformer,
    "PyramidVisionTransformerV2": PyramidVisionTransformerV2,
    "RegNet": RegNet,
    "SwinTransformer": SwinTransformer,
    "ResNeSt": ResNeSt,
    "Res2Net": Res2Net,
    "Darknet": Darknet,
    "MobileNetV2": MobileNetV2,
    "CSPDarknet": CSPDarknet,
    "SSDVGG": SSDVGG,
    # necks
    "FPN": FPN,
    "RFP": RFP,
    "PAFPN": PAFPN,
    "DyHead": DyHead,
    "HRFPN": HRFPN,
    "FPG": FPG,
    "NASFPN": NASFPN,
    "ChannelMapper": ChannelMapper,
    "YOLOV3Neck": YOLOV3Neck,
    "BFP": BFP,
    "YOLOXPAFPN": YOLOXPAFPN,
    "SSDNeck": SSDNeck,
    "NASFCOS_FPN": NASFCOS_FPN,
    "DilatedEncoder": DilatedEncoder,
    # dense heads
    "RPNHead": RPNHead,
    "AnchorHead": AnchorHead,
    "RetinaHead": RetinaHead,
    "AscendRetinaHead": RetinaHead,
    "RetinaSepBNHead": RetinaSepBNHead,
    "FreeAnchorRetinaHead": FreeAnchorRetinaHead,
    "ATSSHead": ATSSHead,
    "PAAHead": PAAHead,
    "DDODHead": DDODHead,
    "SABLRetinaHead": SABLRetinaHead,
    "GuidedAnchorHead": GuidedAnchorHead,
    "GARPNHead": GARPNHead,
    "GARetinaHead": GARetinaHead,
    "LDHead": LDHead,
    "PISARetinaHead": PISARetinaHead,
    "GFLHead": GFLHead,
    "YOLOV3Head": YOLOV3Head,
    "FCOSHead": FCOSHead,
    "YOLOXHead": YOLOXHead,
    "SSDHead": SSDHead,
    "AscendSSDHead": SSDHead,
    "FSAFHead": FSAFHead,
    "FoveaHead": FoveaHead,
    "PISASSDHead": SSDHead,
    "VFNetHead": VFNetHead,
    "TOODHead": TOODHead,
    "SOLOHead": SOLOHead,
    "DecoupledSOLOHead": DecoupledSOLOHead,
    "DecoupledSOLOLightHead": DecoupledSOLOLightHead,
    "SOLOV2Head": SOLOV2Head,
    "AutoAssignHead": AutoAssignHead,
    "YOLOFHead": YOLOFHead,
    "NASFCOSHead": NASFCOSHead,
    "RepPointsHead": RepPointsHead,
    # region heads
    "CascadeRoIHead": CascadeRoIHead,
    "HybridTaskCascadeRoIHead": HybridTaskCascadeRoIHead,
    "SCNetRoIHead": SCNetRoIHead,
    "StandardRoIHead": StandardRoIHead,
    "SingleRoIExtractor": SingleRoIExtractor,
    "BBoxHead": BBoxHead,
    "ConvFCBBoxHead": ConvFCBBoxHead,
    "SCNetBBoxHead": SCNetBBoxHead,
    "Shared2FCBBoxHead": Shared2FCBBoxHead,
    "Shared4Conv1FCBBoxHead": Shared4Conv1FCBBoxHead,
    "FCNMaskHead": FCNMaskHead,
    "FeatureRelayHead": FeatureRelayHead,
    "FusedSemanticHead": FusedSemanticHead,
    "GlobalContextHead": GlobalContextHead,
    "HTCMaskHead": HTCMaskHead,
    "SCNetMaskHead": SCNetMaskHead,
    "SCNetSemanticHead": SCNetSemanticHead,
    "ResLayer": ResLayer,
    "GridRoIHead": GridRoIHead,
    "GridHead": GridHead,
    "DynamicRoIHead": DynamicRoIHead,
    "DoubleHeadRoIHead": DoubleHeadRoIHead,
    "DoubleConvFCBBoxHead": DoubleConvFCBBoxHead,
    "GenericRoIExtractor": GenericRoIExtractor,
    "MaskScoringRoIHead": MaskScoringRoIHead,
    "MaskIoUHead": MaskIoUHead,
    "PointRendRoIHead": PointRendRoIHead,
    "CoarseMaskHead": CoarseMaskHead,
    "MaskPointHead": MaskPointHead,
    "PISARoIHead": PISARoIHead,
    # plugins
    "ContextBlock": ContextBlockPlugin,
    "GeneralizedAttention": GeneralizedAttentionPlugin,
    "ConvModule": ConvModule,
    # losses
    "CrossEntropyLoss": CrossEntropyLoss,
    "FocalLoss": FocalLoss,
    "GHMC": GHMC,
    "GHMR": GHMR,
    "KnowledgeDistillationKLDivLoss": KnowledgeDistillationKLDivLoss,
    "QualityFocalLoss": QualityFocalLoss,
    "DistributionFocalLoss": DistributionFocalLoss,
    "L1Loss": L1Loss,
    "SeesawLoss": SeesawLoss,
    "SmoothL1Loss": SmoothL1Loss,
    "IoULoss": IoULoss,
    "GIoULoss": GIoULoss,
    "DIoULoss": DIoULoss,
    "CIoULoss": CIoULoss,
    "BoundedIoULoss": BoundedIoULoss,
    "MSELoss": MSELoss,
    "BalancedL1Loss": BalancedL1Loss,
    "VarifocalLoss": VarifocalLoss,
    "DiceLoss": DiceLoss,
    # targets
    "AnchorGenerator": AnchorGenerator,
    "LegacyAnchorGenerator": LegacyAnchorGenerator,
    "LegacySSDAnchorGenerator": LegacySSDAnchorGenerator,
    "DeltaXYWHBBoxCoder": DeltaXYWHBBoxCoder,
    "BucketingBBoxCoder": BucketingBBoxCoder,
    "LegacyDeltaXYWHBBoxCoder": LegacyDeltaXYWHBBoxCoder,
    "MaxIoUAssigner": MaxIoUAssigner,
    "ATSSAssigner": ATSSAssigner,
    "ApproxMaxIoUAssigner": ApproxMaxIoUAssigner,
    "RandomSampler": RandomSampler,
    "PseudoSampler": PseudoSampler,
    "GridAssigner": GridAssigner,
    "YOLOBBoxCoder": YOLOBBoxCoder,
    "YOLOAnchorGenerator": YOLOAnchorGenerator,
    "DistancePointBBoxCoder": DistancePointBBoxCoder,
    "MlvlPointGenerator": MlvlPointGenerator,
    "SimOTAAssigner": SimOTAAssigner,
    "SSDAnchorGenerator": SSDAnchorGenerator,
    "AscendMaxIoUAssigner": MaxIoUAssigner,
    "CombinedSampler": CombinedSampler,
    "InstanceBalancedPosSampler": InstanceBalancedPosSampler,
    "IoUBalancedNegSampler": IoUBalancedNegSampler,
    "OHEMSampler": OHEMSampler,
    "ScoreHLRSampler": ScoreHLRSampler,
    "CenterRegionAssigner": CenterRegionAssigner,
    "TBLRBBoxCoder": TBLRBBoxCoder,
    "TaskAlignedAssigner": TaskAlignedAssigner,
    "UniformAssigner": UniformAssigner,
    "PointAssigner": PointAssigner,
}
