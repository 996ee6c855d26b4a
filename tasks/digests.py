"""Content digests, cheap the second time: a file is hashed again when its size, time or inode changed."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

HASHED_AT_ONCE = 256  # files per commit, so that an interrupted first hashing keeps what it has
TREE_FILE = (
    "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL)"
)


def cache_dir() -> Path:
    """The folder of receipts, locks and digests: ``DETECTOR_CACHE``, or ``.cache`` in the working folder."""
    return Path(os.environ.get("DETECTOR_CACHE") or ".cache")


def digest(value: Any) -> str:
    """The sha256 of a JSON-able value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, read now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DigestCache:
    """Remembers the sha256 of files by size, mtime and inode in ``<cache>/digests.db``; safe to share."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_dir()) / "digests.db"

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60)
        connection.execute(TREE_FILE)
        return connection

    def files(self, paths: Iterable[Path]) -> dict[Path, str]:
        """The sha256 of every path, in the order given.

        Raises:
            OSError: a path does not exist or cannot be read.
        """
        wanted = [(path, str(path.resolve()), _stamp(path)) for path in paths]
        with closing(self._connect()) as connection:
            known = _known(connection, [name for _, name, _ in wanted])
            found: dict[Path, str] = {}
            for count, (path, name, stamp) in enumerate(wanted, 1):
                if known.get(name, ("", ""))[0] == stamp:
                    found[path] = known[name][1]
                    continue
                found[path] = sha256_file(path)
                connection.execute(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (name, stamp, found[path])
                )
                if count % HASHED_AT_ONCE == 0:
                    connection.commit()
            connection.commit()
        return found

    def file(self, path: Path) -> str:
        """The sha256 of one file."""
        return self.files([path])[path]

    def tree(self, top: Path) -> str:
        """One digest of names and contents of the files below ``top`` (links followed), or of a file."""
        if not top.is_dir():
            return self.file(top)
        found = self.files(sorted(walk(top)))
        return digest({path.relative_to(top).as_posix(): sha for path, sha in found.items()})


def walk(top: Path) -> Iterator[Path]:
    """Every file below ``top``, links to files and folders followed, hidden files left out."""
    for folder, subfolders, names in os.walk(top, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def listing(top: Path) -> str:
    """A digest of the names and sizes below ``top``: enough where only the presence of images matters."""
    return digest({path.relative_to(top).as_posix(): path.stat().st_size for path in walk(top)})


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"


def _known(connection: sqlite3.Connection, names: list[str]) -> dict[str, tuple[str, str]]:
    """The remembered (stamp, sha256) of ``names``."""
    found: dict[str, tuple[str, str]] = {}
    for start in range(0, len(names), 500):  # sqlite limits the placeholders of one statement
        part = names[start : start + 500]
        marks = ",".join("?" * len(part))
        rows = connection.execute(f"SELECT path, stamp, sha256 FROM files WHERE path IN ({marks})", part)
        found.update({path: (stamp, sha) for path, stamp, sha in rows})
    return found
