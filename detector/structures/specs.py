"""Specifications: frozen settings that a constructor receives instead of a config dict.

The builder turns a dict into a spec where the receiving parameter is annotated with one; an unknown field
is a config error.
"""

from __future__ import annotations

from dataclasses import dataclass

from detector.errors import ConfigError


class Spec:
    """Marker base.

    Dicts for parameters annotated with a subclass become that subclass, not a catalog object.
    """


@dataclass(frozen=True)
class NormSpec(Spec):
    """Normalisation layer.

    ``type``: BN, BN2d, SyncBN, MMSyncBN, GN, IN2d or LN; ``num_groups`` counts for GN only.
    """

    type: str
    requires_grad: bool = True
    num_groups: int | None = None
    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True
    track_running_stats: bool = True


@dataclass(frozen=True)
class ConvSpec(Spec):
    """Convolution.

    Attributes:
        type: Conv or Conv2d; ConvWS or ConvAWS (weights standardised per output channel); DCN or DCNv2
            (deformable); SAC (two dilations, switched per position).
        eps: added to the standard deviation (ConvWS).
        deform_groups: parts of the input channels with offsets of their own (DCN, DCNv2).
        use_deform: whether both branches are deformable (SAC).
        fallback_on_stride: must be False; older configs say so.
    """

    type: str
    eps: float = 1e-5
    deform_groups: int = 1
    use_deform: bool = False
    fallback_on_stride: bool = False

    def __post_init__(self) -> None:
        """Refuse a setting that no convolution here has.

        Raises:
            ConfigError: ``fallback_on_stride`` is True.
        """
        if self.fallback_on_stride:
            raise ConfigError(
                f"{self.type}: found fallback_on_stride=True; deformable convolutions stride here. Set it to "
                "False, or leave the stage out of stage_with_dcn."
            )


@dataclass(frozen=True)
class ActSpec(Spec):
    """Activation layer. ``type``: ReLU, LeakyReLU, ReLU6, SiLU, Swish, Sigmoid, Tanh, GELU or HSwish."""

    type: str
    negative_slope: float = 0.01


@dataclass(frozen=True)
class NmsSpec(Spec):
    """Suppression of overlapping boxes.

    ``iou_threshold`` in IoU; ``min_score``, ``sigma``, ``method`` count for soft_nms only.
    """

    type: str = "nms"
    iou_threshold: float = 0.5
    class_agnostic: bool = False
    max_num: int = -1
    score_threshold: float = 0.0
    split_thr: int = 10000
    sigma: float = 0.5
    min_score: float = 1e-3
    method: str = "linear"


@dataclass(frozen=True)
class RoILayerSpec(Spec):
    """RoI pooling layer. ``output_size`` in bins per side; ``sampling_ratio`` 0 means adaptive.

    ``type``: RoIAlign, or SimpleRoIAlign (one sample per bin, no ``sampling_ratio``).

    Raises:
        ConfigError: another pooling than averaging RoIAlign.
    """

    type: str = "RoIAlign"
    output_size: int | tuple[int, int] = 7
    sampling_ratio: int = 0
    aligned: bool = True
    pool_mode: str = "avg"

    def __post_init__(self) -> None:
        """Refuse what would silently be averaged."""
        if self.type not in ("RoIAlign", "SimpleRoIAlign") or self.pool_mode != "avg":
            raise ConfigError(
                f"RoI layer: found type {self.type!r} with pool_mode {self.pool_mode!r}; expected 'RoIAlign' "
                "with 'avg', the only pooling here. Change or remove the setting."
            )


@dataclass(frozen=True)
class UpsampleSpec(Spec):
    """Upsampling.

    ``type`` (mask heads): deconv, nearest, bilinear or None; ``mode`` (necks): an interpolation mode.
    """

    type: str | None = None
    mode: str = "nearest"
    scale_factor: float | None = None
    align_corners: bool | None = None


@dataclass(frozen=True)
class PredictorSpec(Spec):
    """Last layer of a head. ``type``: Linear, NormedLinear, Conv or NormedConv2d.

    The rest counts for normed layers only: the temperature (the dialect's spelling), the power of the lengths
    divided by, what is added to them, and whether a kernel has one length or one per position.
    """

    type: str = "Linear"
    tempearture: float = 20
    power: float = 1.0
    eps: float = 1e-6
    norm_over_kernel: bool = False


@dataclass(frozen=True)
class InitSpec(Spec):
    """Initial values, in the dialect of ``init_cfg``.

    Attributes:
        type: Pretrained, Constant, Normal, Xavier, Kaiming, Caffe2Xavier, Uniform or TruncNormal.
        layer: class names the rule covers.
        checkpoint: source of a Pretrained part.
        prefix: keys of the checkpoint that belong to the part.
        override: rules for named children.
    """

    type: str
    layer: str | list[str] | tuple[str, ...] | None = None
    checkpoint: str | None = None
    prefix: str | None = None
    map_location: str | None = None
    val: float = 0.0
    bias: float = 0.0
    bias_prob: float | None = None
    mean: float = 0.0
    std: float = 0.01
    gain: float = 1.0
    a: float = 0.0
    b: float = 1.0
    mode: str = "fan_out"
    nonlinearity: str = "relu"
    distribution: str = "normal"
    override: dict | list | None = None
