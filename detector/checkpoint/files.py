"""Checkpoint files: restricted reading, whole writing, digests.

A file holds ``{'meta': ..., 'state_dict': ..., 'optimizer': ...}`` as MMDetection writes it, plus
``resume`` when it is ours.
Beside it lies ``<name>.sha256`` with its digest.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.checkpoint.exchange import is_safetensors, read_safetensors
from detector.checkpoint.formats import read_any
from detector.errors import CheckpointError
from detector.whole_files import replacing


@dataclass
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        state_dict: tensors by key, with torch's ``_metadata`` attribute when the file has it.
        meta: what the writer noted (CLASSES, config, epoch, iter ...).
        optimizer: optimizer state, or None.
        raw: everything in the file.
        foreign: class names in the file that were replaced by inert placeholders.
        path: where it came from.
    """

    state_dict: OrderedDict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    path: Path | None = None


def sha256_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest_path(path: str | Path) -> Path:
    """Where the digest of a checkpoint lies."""
    path = Path(path)
    return path.with_name(path.name + ".sha256")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(path: str | Path, payload: Mapping[str, Any]) -> str:
    """Write a checkpoint so that a reader sees the old file or the whole new one.

    The old digest goes first, the new one comes last: a file without a matching digest is one whose writing
    was interrupted.

    Args:
        path: the file; its folder is made.
        payload: at least ``state_dict`` and ``meta``.

    Returns:
        the file's sha256.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest_path(path).unlink(missing_ok=True)
    with replacing(path) as stream:
        torch.save(dict(payload), stream)
    digest = sha256_file(path)
    with replacing(manifest_path(path)) as stream:
        stream.write(f"{digest}  {path.name}\n".encode())
    _sync_folder(path.parent)
    return digest


def verify_checkpoint(path: str | Path) -> bool:
    """Whether the file is there and matches its digest."""
    path, manifest = Path(path), manifest_path(path)
    if not path.is_file() or not manifest.is_file():
        return False
    words = manifest.read_text(encoding="utf-8").split()
    return bool(words) and words[0] == sha256_file(path)


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _ordered(value: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The same object when it is ordered already, so that its ``_metadata`` stays."""
    return value if isinstance(value, OrderedDict) else OrderedDict(value)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or a bare state dict, without running anything it holds; tensors are in host memory.

    Both serialisations of torch, and safetensors.

    Raises:
        CheckpointError: missing, unreadable, or without a state dict.
    """
    path = Path(path)
    if path.is_file() and is_safetensors(path):
        tensors, notes = read_safetensors(path)
        return Checkpoint(
            state_dict=tensors, meta=notes, raw={"state_dict": tensors, "meta": notes}, path=path
        )
    value, foreign = read_any(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}; expected a dict with 'state_dict'.")
    if _is_state_dict(value):
        return Checkpoint(state_dict=_ordered(value), foreign=foreign, path=path)
    state = value.get("state_dict", value.get("model"))
    if not isinstance(state, dict) or not _is_state_dict(state):
        found = ", ".join(map(str, list(value)[:6]))
        raise CheckpointError(
            f"{path}: no state dict inside; found the keys {found}; expected 'state_dict' with tensors."
        )
    meta = value.get("meta")
    optimizer = value.get("optimizer")
    return Checkpoint(
        state_dict=_ordered(state),
        meta=meta if isinstance(meta, dict) else {},
        optimizer=optimizer if isinstance(optimizer, dict) else None,
        raw=value,
        foreign=foreign,
        path=path,
    )
