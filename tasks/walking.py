"""The files below a folder that may be, or hold, links, and what is wrong with the entries that are none."""

from __future__ import annotations

import errno
import os
import stat as modes
from pathlib import Path
from typing import NamedTuple

Folder = tuple[int, int]  # device and inode


class Found(NamedTuple):
    """A file: its path below the top, the path without links, and what the file system says of it."""

    name: str
    real: str
    stat: os.stat_result


class Scan(NamedTuple):
    """What a walk found: files, and relative path -> why an entry is none."""

    files: list[Found]
    problems: dict[str, str]


def scan(top: Path) -> Scan:
    """Every file below ``top``, links to files and folders followed, hidden entries left out.

    A folder that two links name is there twice; a link to a folder above itself is a problem, not a walk
    without end.
    """
    found = Scan([], {})
    try:
        held = top.stat()
    except OSError as error:
        found.problems["."] = _why(str(top), error)
        return found
    pending: list[tuple[str, str, tuple[Folder, ...]]] = [
        ("", os.path.realpath(top), ((held.st_dev, held.st_ino),))
    ]
    while pending:
        prefix, real, above = pending.pop()
        try:
            with os.scandir(real) as entries:
                listed = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda e: e.name)
        except OSError as error:
            found.problems[prefix.rstrip("/") or "."] = _why(real, error)
            continue
        for entry in listed:
            below = _enter(found, prefix + entry.name, entry, above)
            if below:
                pending.append(below)
    return found


def _enter(
    found: Scan, name: str, entry: os.DirEntry[str], above: tuple[Folder, ...]
) -> tuple[str, str, tuple[Folder, ...]] | None:
    """Note a file or a problem; of a folder, say where to go on."""
    try:
        stat = entry.stat()
    except OSError as error:
        found.problems[name] = _why(entry.path, error)
        return None
    real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
    if modes.S_ISREG(stat.st_mode):
        found.files.append(Found(name, real, stat))
    elif modes.S_ISDIR(stat.st_mode):
        folder = (stat.st_dev, stat.st_ino)
        if folder not in above:
            return f"{name}/", real, (*above, folder)
        found.problems[name] = f"is a link to a folder above it ({real})"
    else:
        found.problems[name] = "is neither a file nor a folder"
    return None


def _why(path: str, error: OSError) -> str:
    """What is wrong with an entry, in words."""
    if error.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    if isinstance(error, FileNotFoundError) and Path(path).is_symlink():
        return f"is a broken link to {Path(path).readlink()}"
    return f"cannot be read ({error.strerror or error})"
