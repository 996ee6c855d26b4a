"""Initial values by rule, in the dialect of ``init_cfg``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.layers.conv import ConvModule
from detector.structures.specs import InitSpec

InitRules = InitSpec | list[InitSpec] | None


def _xavier(w: Tensor, spec: InitSpec) -> None:
    (nn.init.xavier_uniform_ if spec.distribution == "uniform" else nn.init.xavier_normal_)(w, gain=spec.gain)


def _kaiming(w: Tensor, spec: InitSpec) -> None:
    fill = nn.init.kaiming_uniform_ if spec.distribution == "uniform" else nn.init.kaiming_normal_
    fill(w, a=spec.a, mode=spec.mode, nonlinearity=spec.nonlinearity)  # type: ignore[arg-type]


def _caffe2_xavier(w: Tensor, spec: InitSpec) -> None:
    nn.init.kaiming_uniform_(w, a=1, mode="fan_in", nonlinearity="leaky_relu")


_FILL: dict[str, Callable[[Tensor, InitSpec], object]] = {
    "Constant": lambda w, s: nn.init.constant_(w, s.val),
    "Normal": lambda w, s: nn.init.normal_(w, s.mean, s.std),
    "Uniform": lambda w, s: nn.init.uniform_(w, s.a, s.b),
    "TruncNormal": lambda w, s: nn.init.trunc_normal_(
        w, s.mean, s.std, s.a if s.a < 0 else -2.0, s.b if s.b > 1 else 2.0
    ),
    "Xavier": _xavier,
    "Kaiming": _kaiming,
    "Caffe2Xavier": _caffe2_xavier,
}


def _class_names(module: nn.Module) -> set[str]:
    """Names of the module's classes, with the reference's ``_BatchNorm`` family name."""
    return {c.__name__ for c in type(module).__mro__}


def fill(module: nn.Module, spec: InitSpec) -> None:
    """Apply one rule to one layer's ``weight`` and ``bias`` in place; layers without them are left alone."""
    if spec.type not in _FILL:
        raise ConfigError(
            f"init_cfg: unknown type {spec.type!r}; expected Pretrained or one of {', '.join(_FILL)}."
        )
    bias = spec.bias if spec.bias_prob is None else -math.log((1 - spec.bias_prob) / spec.bias_prob)
    if isinstance(getattr(module, "weight", None), Tensor):
        _FILL[spec.type](module.weight, spec)  # type: ignore[arg-type]
    if isinstance(getattr(module, "bias", None), Tensor):
        nn.init.constant_(module.bias, bias)  # type: ignore[arg-type]


def _layers(spec: InitSpec) -> tuple[str, ...]:
    return (spec.layer,) if isinstance(spec.layer, str) else tuple(spec.layer or ())


def _overrides(spec: InitSpec) -> Iterable[tuple[str, InitSpec]]:
    raw = spec.override or ()
    for one in (raw,) if isinstance(raw, dict) else raw:
        settings = {key: value for key, value in one.items() if key != "name"}
        base = {k: v for k, v in vars(spec).items() if k not in ("override", "layer")}
        yield (
            one["name"],
            InitSpec(**{**base, **settings}) if "type" not in settings else InitSpec(**settings),
        )


@torch.no_grad()
def apply_rules(module: nn.Module, rules: InitSpec | Sequence[InitSpec]) -> None:
    """Apply rules to all layers inside ``module`` whose class is named.

    Pretrained rules are left to the engine.
    """
    for spec in [rules] if isinstance(rules, InitSpec) else rules:
        if spec.type == "Pretrained":
            continue
        wanted = set(_layers(spec))
        for layer in module.modules():
            if wanted & _class_names(layer):
                fill(layer, spec)
        for name, rule in _overrides(spec):
            for layer in getattr(module, name).modules() if hasattr(module, name) else ():
                fill(layer, rule)


def is_pretrained(rules: InitRules) -> bool:
    """Whether the rules name a checkpoint."""
    return any(r.type == "Pretrained" for r in ([rules] if isinstance(rules, InitSpec) else rules or ()))


def init_conv_modules(module: nn.Module) -> None:
    """Give every ConvModule inside ``module`` its own default values."""
    for child in module.modules():
        if isinstance(child, ConvModule):
            child.init_weights()


@torch.no_grad()
def normal_(layer: nn.Module, std: float, bias: float = 0.0) -> None:
    """Normal weights of mean 0, constant bias."""
    fill(layer, InitSpec(type="Normal", std=std, bias=bias))


@torch.no_grad()
def xavier_uniform_(layer: nn.Module) -> None:
    """Xavier uniform weights, zero bias."""
    fill(layer, InitSpec(type="Xavier", distribution="uniform"))
