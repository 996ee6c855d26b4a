"""Normalisation layers and the reference's attribute names for them (part of every checkpoint key)."""

from __future__ import annotations

from torch import nn

from detector.errors import ConfigError
from detector.structures.specs import NormSpec

_BATCH = {
    "BN": nn.BatchNorm2d,
    "BN2d": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "MMSyncBN": nn.SyncBatchNorm,
    "IN": nn.InstanceNorm2d,
    "IN2d": nn.InstanceNorm2d,
}
_SHORT = {
    "BN": "bn",
    "BN2d": "bn",
    "SyncBN": "bn",
    "MMSyncBN": "bn",
    "GN": "gn",
    "IN": "in",
    "IN2d": "in",
    "LN": "ln",
}


def norm_name(spec: NormSpec, index: int | str = "") -> str:
    """Attribute name of a norm: ``bn1``, ``gn2``, ``ln`` ... (synchronised batch norm counts as ``bn``)."""
    if spec.type not in _SHORT:
        raise ConfigError(f"norm_cfg: unknown type {spec.type!r}; expected one of {', '.join(_SHORT)}.")
    return f"{_SHORT[spec.type]}{index}"


def make_norm(spec: NormSpec, channels: int) -> nn.Module:
    """Build a norm for ``channels`` feature maps; its parameters follow ``spec.requires_grad``."""
    layer: nn.Module
    if spec.type == "GN":
        if spec.num_groups is None:
            raise ConfigError("norm_cfg: GN needs num_groups (for example num_groups=32).")
        layer = nn.GroupNorm(spec.num_groups, channels, eps=spec.eps, affine=spec.affine)
    elif spec.type == "LN":
        layer = nn.LayerNorm(channels, eps=spec.eps)
    elif spec.type in _BATCH:
        affine = spec.affine and spec.type not in ("IN", "IN2d")
        track = spec.track_running_stats and spec.type not in ("IN", "IN2d")
        layer = _BATCH[spec.type](
            channels, eps=spec.eps, momentum=spec.momentum, affine=affine, track_running_stats=track
        )
    else:
        raise ConfigError(f"norm_cfg: unknown type {spec.type!r}; expected one of {', '.join(_SHORT)}.")
    for parameter in layer.parameters():
        parameter.requires_grad = spec.requires_grad
    return layer


def add_norm(module: nn.Module, spec: NormSpec, channels: int, index: int | str = "") -> str:
    """Attach a norm to ``module`` under the reference's name and return that name."""
    name = norm_name(spec, index)
    module.add_module(name, make_norm(spec, channels))
    return name


def freeze(module: nn.Module) -> None:
    """Put ``module`` in eval mode and stop its gradients."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad = False
