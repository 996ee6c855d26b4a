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
    """Convolution. ``type``: Conv, Conv2d or ConvWS (weights standardised per output channel)."""

    type: str
    eps: float = 1e-5


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
        if self.type != "RoIAlign" or self.pool_mode != "avg":
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
    """Last layer of a head. ``type``: Linear or Conv."""

    type: str = "Linear"

    def require(self, kind: str, where: str) -> None:
        """Refuse a layer that the head does not build.

        Raises:
            ConfigError: the type is another one than ``kind``.
        """
        if self.type != kind:
            raise ConfigError(
                f"{where}: found type {self.type!r}; expected {kind!r}, the only last layer of this head. "
                "Change or remove the setting."
            )


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
