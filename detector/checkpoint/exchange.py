"""Checkpoints for others: safetensors files, and ``.pth`` files with plain values only.

A safetensors file holds tensors by name and strings by name. The meta travels as one json string; the
versions of the modules, which old names are renamed by, as another.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detector.checkpoint.upgrades import versions_of
from detector.errors import CheckpointError
from detector.whole_files import replacing

#: longest header that is believed; safetensors' own limit
_HEADER_LIMIT = 100_000_000


def is_safetensors(path: Path) -> bool:
    """Whether a file starts as safetensors do: the header's length, then a json object."""
    with path.open("rb") as stream:
        start = stream.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _HEADER_LIMIT


def read_safetensors(path: Path) -> tuple[OrderedDict[str, Tensor], dict[str, Any]]:
    """State dict, with ``_metadata`` where the file has it, and meta.

    Raises:
        CheckpointError: cut or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:  # type: ignore[no-untyped-call]
            state = OrderedDict((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118
            notes: dict[str, str] = file.metadata() or {}
        meta = json.loads(notes.get("meta", "{}"))
        versions = json.loads(notes.get("versions", "{}"))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); the file is cut or damaged."
        ) from error
    if not isinstance(meta, dict) or not isinstance(versions, dict):
        raise CheckpointError(f"{path}: its meta or versions are no json objects; the file is damaged.")
    for key in ("CLASSES", "PALETTE"):
        if isinstance(meta.get(key), list):
            meta[key] = tuple(tuple(v) if isinstance(v, list) else v for v in meta[key])
    if versions:
        state._metadata = OrderedDict((k, {"version": v}) for k, v in versions.items())  # type: ignore[attr-defined]
    return state, meta


def write_safetensors(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Write tensors and what of the meta json can hold, whole or not at all.

    Returns:
        names of the meta's entries that were left out, dotted.
    """
    from safetensors.torch import save

    plain, dropped = plain_meta(meta)
    notes = {"format": "pt", "meta": json.dumps(plain)}
    if plain.get("CLASSES"):
        notes["classes"] = json.dumps(plain["CLASSES"])
    versions = {name: version for name, version in versions_of(state).items() if version is not None}
    if versions:
        notes["versions"] = json.dumps(versions)
    # copies: a file may hold tensors that share a storage
    data = save({k: v.detach().cpu().clone().contiguous() for k, v in state.items()}, metadata=notes)
    with replacing(path) as stream:
        stream.write(data)
    return dropped


def plain_meta(meta: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The part of a meta that is text, numbers, lists and dicts of them, and the dotted names of the rest."""
    dropped: list[str] = []
    kept = {str(k): _plain(v, str(k), dropped) for k, v in meta.items()}
    return {k: v for k, v in kept.items() if k not in dropped}, tuple(dropped)


def _plain(value: Any, name: str, dropped: list[str]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        items = {str(k): _plain(v, f"{name}.{k}", dropped) for k, v in value.items()}
        return {k: v for k, v in items.items() if f"{name}.{k}" not in dropped}
    if isinstance(value, list | tuple):
        listed = [_plain(v, f"{name}[{i}]", dropped) for i, v in enumerate(value)]
        return type(value)(v for i, v in enumerate(listed) if f"{name}[{i}]" not in dropped)
    dropped.append(name)
    return None
