"""Optimizers of the dialect, with mmcv's per-parameter rules.

Checked against mmcv 1.7.2 ``runner/optimizer/default_constructor.py``. Parameters that need no gradient stay
in the groups, as in
the reference, so that optimizer states are interchangeable; without a gradient no optimizer touches them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from detector.engine.checks import check_keys, unknown_name
from detector.engine.layer_decay import layer_decay_groups
from detector.errors import ConfigError

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}
PARAMWISE_KEYS = (
    "custom_keys",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "dwconv_decay_mult",
    "dcn_offset_lr_mult",
    "bypass_duplicate",
)
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
DEFORM_CONV = "DeformConv2d"  # part of the class name of every deformable convolution


def build_optimizer(model: nn.Module, optimizer_cfg: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Optimizer over the parameters of ``model``.

    Args:
        model: its ``named_parameters`` order gives the order of the optimizer state.
        optimizer_cfg: the config's ``optimizer``: ``type``, the arguments of that optimizer, and
            ``paramwise_cfg``.

    Returns:
        one parameter group without ``paramwise_cfg``, else one group per parameter; each holds its rate in
        ``initial_lr``.

    Raises:
        ConfigError: unknown optimizer, argument or parameter rule.
    """
    options = dict(optimizer_cfg)
    name = str(options.pop("type", ""))
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer.type", name, OPTIMIZERS)
    rules = options.pop("paramwise_cfg", None)
    constructor = str(options.pop("constructor", "DefaultOptimizerConstructor"))
    if constructor not in CONSTRUCTORS:
        raise unknown_name("optimizer.constructor", constructor, CONSTRUCTORS)
    accepted = tuple(p for p in inspect.signature(OPTIMIZERS[name]).parameters if p != "params")
    check_keys("optimizer", options, (*accepted, "type", "paramwise_cfg"))
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    by_rule = CONSTRUCTORS[constructor]
    params: Any = by_rule(model, options, rules) if rules else list(model.parameters())
    try:
        optimizer = OPTIMIZERS[name](params, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: {name} does not take {options}: {error}.") from error
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def parameter_groups(
    model: nn.Module, options: Mapping[str, Any], rules: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One group per parameter, with the rate and decay that ``rules`` give it.

    Args:
        model: the parameters' owner.
        options: the optimizer's arguments; ``lr`` and ``weight_decay`` are the base values.
        rules: ``paramwise_cfg``: multipliers by kind of parameter, and ``custom_keys`` (part of a name ->
            ``lr_mult``, ``decay_mult``),
            of which the longest match wins over everything else.

    Raises:
        ConfigError: unknown rule, or a rule without its base value.
    """
    check_keys("optimizer.paramwise_cfg", rules, PARAMWISE_KEYS)
    base_lr, base_decay = options.get("lr"), options.get("weight_decay")
    if base_lr is None:
        raise ConfigError(
            "optimizer.paramwise_cfg: found no optimizer.lr; expected a base rate to multiply. Set "
            "optimizer.lr."
        )
    if base_decay is None and any(key.endswith("decay_mult") for key in rules):
        raise ConfigError(
            "optimizer.paramwise_cfg: decay multipliers need optimizer.weight_decay; found none. Set it."
        )
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for prefix, module, in_deform, name, param in _own_parameters(model):
        if id(param) in seen:
            if not rules.get("bypass_duplicate", False):
                raise ConfigError(
                    f"optimizer.paramwise_cfg: parameter {prefix}.{name} is shared with another module. Set "
                    "paramwise_cfg.bypass_duplicate=True."
                )
            continue
        seen.add(id(param))
        group: dict[str, Any] = {"params": [param]}
        if param.requires_grad:
            lr_mult, decay_mult = multipliers(prefix, module, name, rules, in_deform=in_deform)
            group["lr"] = base_lr * lr_mult
            if base_decay is not None:
                group["weight_decay"] = base_decay * decay_mult
        groups.append(group)
    return groups


def multipliers(
    prefix: str, module: nn.Module, name: str, rules: Mapping[str, Any], *, in_deform: bool = False
) -> tuple[float, float]:
    """(lr_mult, decay_mult) of one parameter.

    Args:
        prefix: dotted path of ``module``.
        module: the parameter's owner.
        name: the parameter's name in its owner, e.g. 'bias'.
        rules: ``paramwise_cfg``.
        in_deform: whether the owner is a child of a deformable convolution (its offset convolution).
    """
    custom = rules.get("custom_keys") or {}
    full_name = f"{prefix}.{name}"
    for key in sorted(sorted(custom), key=len, reverse=True):
        if key in full_name:
            return float(custom[key].get("lr_mult", 1.0)), float(custom[key].get("decay_mult", 1.0))
    is_norm = isinstance(module, NORMS)
    lr_mult = decay_mult = 1.0
    if name == "bias" and not (is_norm or in_deform):
        lr_mult = float(rules.get("bias_lr_mult", 1.0))
    if "conv_offset" in prefix and in_deform and isinstance(module, nn.Conv2d):
        lr_mult = float(rules.get("dcn_offset_lr_mult", 1.0))
    if is_norm:
        decay_mult = float(rules.get("norm_decay_mult", 1.0))
    elif isinstance(module, nn.Conv2d) and module.in_channels == module.groups:
        decay_mult = float(rules.get("dwconv_decay_mult", 1.0))
    elif name == "bias" and not in_deform:
        decay_mult = float(rules.get("bias_decay_mult", 1.0))
    return lr_mult, decay_mult


CONSTRUCTORS = {
    "DefaultOptimizerConstructor": parameter_groups,
    "LearningRateDecayOptimizerConstructor": layer_decay_groups,
}


def _own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool, str, nn.Parameter]]:
    """(module path, module, child of a deformable convolution, name, parameter), shared ones repeated."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for prefix, module in modules.items():
        parent = modules[prefix.rpartition(".")[0]] if prefix else None
        in_deform = DEFORM_CONV in type(parent).__name__
        for name, param in module.named_parameters(recurse=False):
            yield prefix, module, in_deform, name, param
