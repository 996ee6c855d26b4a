"""Historic renames of state-dict keys and values that old files lack, as pure functions.

A rename takes the keys and the version of every module (``state_dict._metadata``) and returns old key ->
new key. Names of the model's own keys are given, so that a rename only happens where it leads somewhere.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

Versions = Mapping[str, int | None]
Upgrade = Callable[[Collection[str], Collection[str], Versions], dict[str, str]]

_DETR = (
    (".self_attn.", ".attentions.0."),
    (".ffn.", ".ffns.0."),
    (".multihead_attn.", ".attentions.1."),
    (".decoder.norm.", ".decoder.post_norm."),
)
_STANDARD_EPS = 1e-5  # as in layers/conv_aws.py
_ANCHOR_FREE = {"cls": "conv_cls", "reg": "conv_reg", "centerness": "conv_centerness"}


def versions_of(state: Mapping[str, Tensor]) -> dict[str, int | None]:
    """Version of every module that a state dict's ``_metadata`` names; empty when it has none."""
    metadata: Any = getattr(state, "_metadata", None)
    if not isinstance(metadata, dict):
        return {}
    return {str(k): v.get("version") if isinstance(v, dict) else None for k, v in metadata.items()}


def data_parallel(keys: Collection[str], wanted: Collection[str], versions: Versions) -> dict[str, str]:
    """Leading ``module.`` of a model that was wrapped when saved; only when every key has it."""
    if (
        not keys
        or not all(k.startswith("module.") for k in keys)
        or any(k.startswith("module.") for k in wanted)
    ):
        return {}
    return {k: k[len("module.") :] for k in keys}


def deformable_pack(keys: Collection[str], wanted: Collection[str], versions: Versions) -> dict[str, str]:
    """``conv2_offset.*`` -> ``conv2.conv_offset.*`` of packs before version 2 (mmcv ops/deform_conv.py)."""
    renames = {}
    for key in keys:
        match = re.fullmatch(r"(.*?)_offset\.(weight|bias)", key)
        if match is None or key in wanted:
            continue
        new, version = f"{match[1]}.conv_offset.{match[2]}", versions.get(match[1])
        if new in wanted and (version is None or version < 2):
            renames[key] = new
    return renames


def detr_layers(keys: Collection[str], wanted: Collection[str], versions: Versions) -> dict[str, str]:
    """Attention and feed-forward layers of DETRHead before version 2 (mmdet dense_heads/detr_head.py)."""
    version = versions.get("bbox_head")
    if version is not None and version >= 2:
        return {}
    renames = {}
    for key in keys:
        new = key
        for old, name in _DETR:
            new = new.replace(old, name)
        if new != key and key not in wanted and new in wanted:
            renames[key] = new
    return renames


def anchor_free_outputs(keys: Collection[str], wanted: Collection[str], versions: Versions) -> dict[str, str]:
    """``fcos_cls`` -> ``conv_cls`` and kin, when unversioned (mmdet dense_heads/anchor_free_head.py)."""
    if versions.get("bbox_head") is not None:
        return {}
    renames = {}
    for key in keys:
        match = re.fullmatch(r"bbox_head\.(\w+?)_(cls|reg|centerness)\.(.*)", key)
        if match is not None and key not in wanted:
            new = f"bbox_head.{_ANCHOR_FREE[match[2]]}.{match[3]}"
            if new in wanted:
                renames[key] = new
    return renames


UPGRADES: tuple[Upgrade, ...] = (data_parallel, deformable_pack, detr_layers, anchor_free_outputs)


def weight_standards(state: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """``weight_gamma`` and ``weight_beta`` of ConvAWS and SAC where a file has the weight alone.

    They become spread and mean of each output channel's weight, so that the standardised weight equals the
    file's (mmcv cnn/bricks/conv_ws.py).

    Args:
        state: tensors by key, renamed already.
        wanted: keys of the model.

    Returns:
        the new tensors, (C_out, 1, 1, 1) each; empty when nothing is lacking.
    """
    found: dict[str, Tensor] = {}
    for key in wanted:
        stem = key.removesuffix("_gamma")
        if stem == key or key in state or not stem.endswith("weight") or stem not in state:
            continue
        weight = state[stem]
        variance, mean = torch.var_mean(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
        found[key], found[f"{stem}_beta"] = (variance + _STANDARD_EPS).sqrt(), mean
    return found


def upgrade(
    state: Mapping[str, Tensor], wanted: Collection[str]
) -> tuple[OrderedDict[str, Tensor], dict[str, str]]:
    """Apply all renames and add derived values.

    Args:
        state: tensors by key; not modified.
        wanted: keys of the model.

    Returns:
        the renamed and completed state dict and {old key: new key}.
    """
    versions = versions_of(state)
    if state and all(k.startswith("module.") for k in state):  # module names carry the prefix as well
        versions = {k.removeprefix("module."): v for k, v in versions.items()}
    current, wanted_set = {key: key for key in state}, set(wanted)
    for rename in UPGRADES:
        changes = rename(set(current.values()), wanted_set, versions)
        current = {old: changes.get(now, now) for old, now in current.items()}
    result = OrderedDict((current[key], value) for key, value in state.items())
    result.update(weight_standards(result, wanted_set))
    return result, {old: new for old, new in current.items() if old != new}
