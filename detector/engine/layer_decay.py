"""Rates that fall with the depth of the backbone: MMDetection's ``LearningRateDecayOptimizerConstructor``.

Checked against mmdet 2.28.2 core/optimizers/layer_decay_optimizer_constructor.py, which knows ConvNeXt only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from detector.engine.checks import check_keys, positive, unknown_name
from detector.errors import ConfigError

TOKENS = ("backbone.cls_token", "backbone.mask_token", "backbone.pos_embed")
UNDECAYED = ("pos_embed", "cls_token")
BLOCKS_PER_LAYER = 3  # of the third stage, which holds most blocks


def layer_decay_groups(
    model: nn.Module, options: Mapping[str, Any], rules: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Parameter groups by depth and by whether weight decay applies; frozen parameters are in none.

    Args:
        model: a detector whose backbone is a ConvNeXt.
        options: the optimizer's arguments; ``lr`` and ``weight_decay`` are the base values.
        rules: ``paramwise_cfg``: ``num_layers``, ``decay_rate``, ``decay_type`` ('layer_wise', 'stage_wise').

    Raises:
        ConfigError: unknown or missing rule, another backbone, or no base values.
    """
    where = "optimizer.paramwise_cfg"
    check_keys(where, rules, ("num_layers", "decay_rate", "decay_type"))
    kind = rules.get("decay_type", "layer_wise")
    if kind not in DEPTHS:
        raise unknown_name(f"{where}.decay_type", str(kind), DEPTHS)
    layers = positive(f"{where}.num_layers", rules.get("num_layers"))
    rate = rules.get("decay_rate")
    if not isinstance(rate, float) or not 0 < rate <= 1:
        raise ConfigError(f"{where}.decay_rate: found {rate!r}; expected a number above 0 and at most 1.")
    backbone = type(getattr(model, "backbone", None)).__name__
    if "ConvNeXt" not in backbone:
        raise ConfigError(
            f"optimizer.constructor: LearningRateDecayOptimizerConstructor knows the depth of ConvNeXt's "
            f"layers; found the backbone {backbone}. Remove the constructor and its paramwise_cfg."
        )
    if options.get("lr") is None:
        raise ConfigError(f"{where}: found no optimizer.lr; expected a base rate to multiply.")
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        depth = DEPTHS[kind](name, layers)
        decays = not (param.ndim == 1 or name.endswith(".bias") or name in UNDECAYED)
        group = groups.setdefault((depth, decays), {
            "params": [],
            "lr": options["lr"] * rate ** (layers + 1 - depth),
            "weight_decay": options.get("weight_decay", 0.0) if decays else 0.0,
        })  # fmt: skip
        group["params"].append(param)
    return list(groups.values())


def layer_of(name: str, layers: int) -> int:
    """Depth of a parameter from 0; ``layers`` is the depth of the last stage, the heads lie one above."""
    if name in TOKENS:
        return 0
    parts = name.split(".")
    if name.startswith("backbone.downsample_layers"):
        return (0, 2, 3, layers)[int(parts[2])]
    if name.startswith("backbone.stages"):
        stage = int(parts[2])
        return (1, 2, 3 + int(parts[3]) // BLOCKS_PER_LAYER, layers)[stage]
    return layers + 1


def stage_of(name: str, layers: int) -> int:
    """Depth of a parameter by stages, from 0; everything behind the backbone lies at the top."""
    if name in TOKENS or name.startswith("backbone.downsample_layers"):
        return 0
    if name.startswith("backbone.stages"):
        return int(name.split(".")[2]) + 1
    return layers + 1


DEPTHS: dict[str, Callable[[str, int], int]] = {"layer_wise": layer_of, "stage_wise": stage_of}
