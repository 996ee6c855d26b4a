"""Whole files or none: written to a temporary sibling, synced, then renamed; and their digests.

Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+\.\d+\.tmp")


def sha256_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def replacing(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of ``path`` at the end; an error leaves the old file.

    Args:
        path: the file; its folder is made.
        check: called with the temporary file when all of it is on the disk; an error from it leaves the old
            file too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with _opened(temporary) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if check is not None:
                check(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: renamed, linked and deleted files stay so after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, belongs: Callable[[str], bool]) -> list[Path]:
    """Delete the temporary files of writers that were killed; returns them.

    A living writer holds a lock on its file, which the kernel lifts when the process ends, whatever it dies
    of; process numbers would not do, since containers share folders and start counting from 1. Where a file
    system knows no locks, nothing is deleted.

    Args:
        folder: where to look; no deeper.
        belongs: says of the name of the file in the making whether it is the caller's to delete.
    """
    removed = []
    for path in folder.glob(".*.tmp"):
        match = TEMPORARY.fullmatch(path.name)
        if match is None or not belongs(match["name"]):
            continue
        with contextlib.suppress(OSError), path.open("r+b") as stream:  # NFS locks only what may be written
            if _lock(stream):
                path.unlink()
                removed.append(path)
    return removed


@contextlib.contextmanager
def _opened(temporary: Path) -> Iterator[BinaryIO]:
    """A new file with its lock, which is still under its name."""
    while True:
        with temporary.open("wb") as stream:
            if not _lock(stream) or os.fstat(stream.fileno()).st_nlink > 0:
                yield stream
                return
            # somebody took it for a leftover between its making and its lock


def _lock(stream: BinaryIO) -> bool:
    """Take the lock of a file for as long as it is open; False where another holds it or there are none."""
    try:
        import fcntl

        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
