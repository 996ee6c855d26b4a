"""The two serialisations of torch, the zip archive and the older stream of pickles, and which a file has."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from detector.checkpoint.exchange import is_safetensors
from detector.checkpoint.unpickle import DTYPES, LazyStorage, SafeUnpickler, foreign_names, unwrap
from detector.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def _describe(pid: tuple[Any, ...]) -> tuple[torch.dtype, str, int]:
    """dtype, key and number of elements of a persistent id ('storage', type, key, location, numel, ...)."""
    if len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
        raise CheckpointError(
            f"a storage of unknown kind ({str(pid[1:2])[:80]}); known: {', '.join(DTYPES)}."
        )
    numel = int(pid[4])
    if numel < 0:
        raise CheckpointError("a storage of negative size.")
    return pid[1], str(pid[2]), numel


def _fill(storage: LazyStorage, raw: bytes) -> None:
    if len(raw) != storage.untyped.nbytes():
        raise CheckpointError(
            f"a storage holds {len(raw)} bytes, expected {storage.untyped.nbytes()}; "
            "the file is cut or damaged."
        )
    if raw:
        view = torch.empty(0, dtype=torch.uint8).set_(storage.untyped)  # type: ignore[call-overload]
        view.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))


def read_zip(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Object of a zip checkpoint and the names that became placeholders."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        pickles = [n for n in names if n.endswith("/data.pkl") or n == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"{path}: a zip file without data.pkl is no torch checkpoint.")
        root = pickles[0][: -len("data.pkl")]
        order = root + "byteorder"
        if order in names and archive.read(order) != b"little":
            raise CheckpointError(f"{path}: written on a big-endian machine; convert it there first.")
        known: dict[str, LazyStorage] = {}

        def load_storage(pid: tuple[Any, ...]) -> LazyStorage:
            dtype, key, numel = _describe(pid)
            if key not in known:
                member = f"{root}data/{key}"
                size = numel * torch.empty((), dtype=dtype).element_size()
                if member not in names or archive.getinfo(member).file_size != size:
                    raise CheckpointError(
                        f"storage {key} is missing or not {size} bytes long; the file is cut or damaged."
                    )
                known[key] = LazyStorage(dtype, numel)
                _fill(known[key], archive.read(member))
            return known[key]

        unpickler = SafeUnpickler(io.BytesIO(archive.read(pickles[0])), load_storage)
        return unwrap(unpickler.load()), foreign_names([unpickler])


def read_legacy(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Object of a checkpoint in the older serialisation and the names that became placeholders."""
    limit = path.stat().st_size
    known: dict[str, LazyStorage] = {}
    total = 0

    def load_storage(pid: tuple[Any, ...]) -> LazyStorage:
        nonlocal total
        dtype, key, numel = _describe(pid)
        if len(pid) > 5 and pid[5] is not None:
            raise CheckpointError(
                "a storage that is a view of another; save the file again with a newer torch."
            )
        if key not in known:
            total += numel * torch.empty((), dtype=dtype).element_size()
            if total > limit:
                raise CheckpointError("its storages are larger than the file; the file is cut or damaged.")
            known[key] = LazyStorage(dtype, numel)
        return known[key]

    with path.open("rb") as stream:
        if SafeUnpickler(stream).load() != _LEGACY_MAGIC:
            raise CheckpointError(f"{path}: not a checkpoint; expected a file written by torch.save.")
        SafeUnpickler(stream).load()  # protocol version
        info = SafeUnpickler(stream).load()
        if isinstance(info, dict) and info.get("little_endian") is False:
            raise CheckpointError(f"{path}: written on a big-endian machine; convert it there first.")
        unpickler = SafeUnpickler(stream, load_storage)
        value = unpickler.load()
        for key in SafeUnpickler(stream).load():
            if key not in known:
                raise CheckpointError(f"storage {key!r} belongs to no tensor; the file is damaged.")
            (count,) = struct.unpack("<q", stream.read(8))
            if count != known[key].numel:
                raise CheckpointError(f"storage {key!r} holds {count} elements, expected {known[key].numel}.")
            _fill(known[key], stream.read(known[key].untyped.nbytes()))
    return unwrap(value), foreign_names([unpickler])


def serialisation(path: Path) -> str:
    """'safetensors', 'zip' or 'legacy', by a file's first bytes."""
    if is_safetensors(path):
        return "safetensors"
    return "zip" if zipfile.is_zipfile(path) else "legacy"


def read_any(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Object of a checkpoint of either serialisation.

    Raises:
        CheckpointError: missing, cut, damaged or not a checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file; give the path of a .pth file.")
    try:
        return read_zip(path) if zipfile.is_zipfile(path) else read_legacy(path)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: found {text}") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({error}); the file is cut, damaged or something else."
        ) from error
    except (
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise CheckpointError(
            f"{path}: its contents make no sense ({type(error).__name__}: {error}); the file is damaged."
        ) from error
