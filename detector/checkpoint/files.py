"""Checkpoint files: restricted reading, whole writing, digests.

A file holds ``{'meta': ..., 'state_dict': ..., 'optimizer': ...}`` as MMDetection writes it, plus
``resume`` when it is ours.
Beside it lies ``<name>.sha256`` with its digest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from detector.checkpoint.exchange import is_safetensors, read_safetensors
from detector.checkpoint.formats import read_any
from detector.errors import CheckpointError
from detector.whole_files import replacing, sha256_file, sync_folder

#: bytes around a tensor in the file: its zip record, its alignment to 64 bytes, its words in the pickle
RECORD_OVERHEAD = 512
FILE_OVERHEAD = 4096


class CheckpointNotWritten(CheckpointError):  # noqa: N818 - says what happened
    """A checkpoint could not be written; the files that were there before are untouched."""


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


def manifest_path(path: str | Path) -> Path:
    """Where the digest of a checkpoint lies."""
    path = Path(path)
    return path.with_name(path.name + ".sha256")


def save_checkpoint(path: str | Path, payload: Mapping[str, Any]) -> str:
    """Write a checkpoint so that a reader sees the old file or the whole new one, with its digest beside it.

    The bytes are hashed on their way and read back from the disk before the new file takes the old one's
    place. A file without a digest is one whose writer was killed between these two renamings.

    Args:
        path: the file; its folder is made.
        payload: at least ``state_dict`` and ``meta``.

    Returns:
        the file's sha256.

    Raises:
        CheckpointNotWritten: too little room, or the disk refuses or garbles the bytes; what was under this
            name before is untouched.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_room(path, payload)
        digest = _write(path, payload)
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointNotWritten(
            f"{path}: found {error.strerror or error} while writing; expected to write about "
            f"{_mib(payload_bytes(payload))}. Free some space, or look at the disk, its quota and its health."
        ) from error
    return digest


def payload_bytes(payload: Any) -> int:
    """About how long the file of a payload becomes, rounded up: every storage once, with its zip record."""
    sizes: dict[tuple[str, int], int] = {}
    pending, other = [payload], FILE_OVERHEAD
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            sizes[str(value.device), storage.data_ptr()] = storage.nbytes()
            other += RECORD_OVERHEAD
        elif isinstance(value, Mapping):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            pending += value
        else:
            other += len(value) + 16 if isinstance(value, str | bytes) else 16
    return sum(sizes.values()) + other


def free_bytes(folder: Path) -> int | None:
    """Bytes that a file in ``folder`` may take; None where the file system does not say."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total > 0 else None


def _check_room(path: Path, payload: Mapping[str, Any]) -> None:
    """Refuse to begin a file that will not fit."""
    needed, free = payload_bytes(payload), free_bytes(path.parent)
    if free is not None and free < needed:
        raise CheckpointNotWritten(
            f"{path}: found {_mib(free)} free; expected {_mib(needed)} for this checkpoint. Free some space, "
            "or keep fewer checkpoints (checkpoint_config.max_keep_ckpts)."
        )


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


class _Hashed:
    """Hashes what goes through to a stream, and keeps its first error: torch makes another one of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            count = self._stream.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.sha256.update(data)
        return count

    def flush(self) -> None:
        self._stream.flush()


def _write(path: Path, payload: Mapping[str, Any]) -> str:
    """Write file and manifest; the digest."""
    manifest = manifest_path(path)
    hashed: _Hashed

    def check(temporary: Path) -> None:
        found, expected = _digest_on_disk(temporary), hashed.sha256.hexdigest()
        if found != expected or not zipfile.is_zipfile(temporary):
            raise CheckpointNotWritten(
                f"{path}: found other bytes on the disk than were written (sha256 {found[:12]}, expected "
                f"{expected[:12]}). The disk or its file system is failing: give another --work-dir."
            )
        manifest.unlink(missing_ok=True)

    with replacing(manifest) as note:
        note.write(_manifest_line("0" * 64, path))  # its place on the disk, while a failure costs nothing
        note.flush()
        os.fsync(note.fileno())
        with replacing(path, check=check) as stream:
            hashed = _Hashed(stream)
            try:
                torch.save(dict(payload), hashed)  # type: ignore[arg-type]
            except Exception as error:
                if hashed.error is not None:
                    raise hashed.error from error
                raise
        note.seek(0)
        note.write(_manifest_line(hashed.sha256.hexdigest(), path))
    return hashed.sha256.hexdigest()


def _manifest_line(digest: str, path: Path) -> bytes:
    """As ``sha256sum`` writes and checks it."""
    return f"{digest}  {path.name}\n".encode()


def _digest_on_disk(path: Path) -> str:
    """Digest of a synced file, from the device and not from memory where the system lets us choose."""
    with path.open("rb") as stream:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
