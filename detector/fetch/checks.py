"""Whether a file on the disk is the expected one, and whether the disk holds what is to come."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from detector.errors import MachineError


def wrong(path: Path, size: int | None, checksum: str | None) -> str:
    """What is wrong with a complete file, or an empty string.

    Args:
        path: the file.
        size: expected bytes.
        checksum: expected '<algorithm>:<hex>'; the first digits are enough.
    """
    if size is not None and length(path) != size:
        return f"came with {length(path)} bytes"
    if checksum:
        algorithm, _, expected = checksum.partition(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if not expected or not found.startswith(expected.lower()):
            return f"came with {algorithm} {found}"
    return ""


def expected(size: int | None, checksum: str | None) -> str:
    """The expected size and digest in words."""
    known = [f"{size} bytes"] if size is not None else []
    return " and ".join([*known, checksum.replace(":", " ")] if checksum else known) or "the whole file"


def length(path: Path) -> int:
    """Bytes of a file, 0 when there is none."""
    return path.stat().st_size if path.is_file() else 0


def require_space(folder: Path, needed: int, what: str) -> None:
    """Check that the disk has room.

    Args:
        folder: exists, on the disk in question.
        needed: bytes still to be written.
        what: for the message, e.g. 'train2017.zip'.

    Raises:
        MachineError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder}: found {free / 1e9:.1f} GB free, expected at least {needed / 1e9:.1f} GB for {what}. "
            "Free space, or choose another store."
        )
