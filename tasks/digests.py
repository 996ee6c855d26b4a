"""Content digests, cheap the second time: a file is read again when its size, times or inode changed.

A file that changed less than two seconds before it was read is read again the next time, too (git's rule for
"racily clean" files): a second change within the file system's clock tick would leave its times as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from detector.errors import DatasetError
from tasks.walking import Scan, scan

SETTLED_NS = 2_000_000_000  # the coarsest clock of the file systems in use (FAT's)
HASHED_AT_ONCE = 1024  # files per commit, so that an interrupted first hashing keeps what it has
PER_TASK = 16  # files that a thread takes at once
THREADS = 16  # more than cores: they wait for a disk or a network most of the time
CHUNK = 1 << 20
TREE_FILE = (
    "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL)"
)
Told = Callable[[int, int], None]


class Entry(NamedTuple):
    """What a file holds: its size in bytes and the sha256 of its content."""

    size: int
    sha256: str


class Contents(NamedTuple):
    """Files of a tree by relative path (of a file: an empty one), and what could not be read: path -> why."""

    files: dict[str, Entry]
    problems: dict[str, str]

    @property
    def digest(self) -> str:
        """One digest of names and contents; of a file, its sha256."""
        if "" in self.files:
            return self.files[""].sha256
        return digest({name: entry.sha256 for name, entry in self.files.items()})


def cache_dir() -> Path:
    """The folder of receipts, locks and digests: ``DETECTOR_CACHE``, or ``.cache`` in the working folder."""
    return Path(os.environ.get("DETECTOR_CACHE") or ".cache")


def digest(value: Any) -> str:
    """The sha256 of a JSON-able value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, read now."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while part := file.read(CHUNK):
            found.update(part)
    return found.hexdigest()


class DigestCache:
    """Remembers the sha256 of files by size, times and inode in ``<cache>/digests.db``; safe to share."""

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
        asked = {path: str(path.resolve()) for path in paths}
        found, failed = self._hashed({name: path.stat() for path, name in asked.items()})
        for error in failed.values():
            raise error
        return {path: found[name] for path, name in asked.items()}

    def file(self, path: Path) -> str:
        """The sha256 of one file."""
        return self.files([path])[path]

    def contents(self, top: Path) -> Contents:
        """Size and sha256 of every file below ``top``, links followed, or of the file ``top``.

        Raises:
            DatasetError: broken links, links to a folder above, or files that cannot be read.
        """
        if not top.is_dir():
            return Contents({"": Entry(top.stat().st_size, self.file(top))}, {})
        found = self.of_scan(scan(top))
        if found.problems:
            raise DatasetError(unreadable(top, found.problems))
        return found

    def of_scan(self, found: Scan, told: Told | None = None) -> Contents:
        """Size and sha256 of every file of a walk, and what was not readable.

        Args:
            found: the walk.
            told: called with the files done and their number, while files are read.
        """
        shas, failed = self._hashed({file.real: file.stat for file in found.files}, told)
        problems = dict(found.problems)
        files: dict[str, Entry] = {}
        for name, real, stat in sorted(found.files):
            if real in failed:
                problems[name] = f"cannot be read ({failed[real].strerror or failed[real]})"
            else:
                files[name] = Entry(stat.st_size, shas[real])
        return Contents(files, problems)

    def tree(self, top: Path) -> str:
        """One digest of names and contents of the files below ``top`` (links followed), or of a file.

        Raises:
            DatasetError: broken links, links to a folder above, or files that cannot be read.
        """
        return self.contents(top).digest

    def _hashed(
        self, wanted: Mapping[str, os.stat_result], told: Told | None = None
    ) -> tuple[dict[str, str], dict[str, OSError]]:
        """Real path -> sha256, remembered or read now, and real path -> why it was not readable."""
        failed: dict[str, OSError] = {}
        with closing(self._connect()) as connection:
            known = _known(connection, list(wanted))
            found = {
                name: known[name][1]
                for name, stat in wanted.items()
                if name in known and known[name][0] == _stamp(stat)
            }
            todo = [name for name in wanted if name not in found]
            for start in range(0, len(todo), HASHED_AT_ONCE):
                before = time.time_ns()
                part = todo[start : start + HASHED_AT_ONCE]
                read = dict(_read_all(part))
                rows = []
                for name, sha in read.items():
                    if isinstance(sha, OSError):
                        failed[name] = sha
                        continue
                    found[name] = sha
                    if wanted[name].st_ctime_ns <= before - SETTLED_NS:
                        rows.append((name, _stamp(wanted[name]), sha))
                connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
                connection.commit()
                if told:
                    told(len(found), len(wanted))
        return found, failed


def unreadable(top: Path, problems: Mapping[str, str], shown: int = 5) -> str:
    """A message about files that cannot be versioned."""
    named = "; ".join(f"{name} {why}" for name, why in list(sorted(problems.items()))[:shown])
    more = f"; and {len(problems) - shown} more" if len(problems) > shown else ""
    return (
        f"{top}: found {len(problems)} entries that cannot be read: {named}{more}; expected readable files. "
        "Restore or remove them."
    )


def listing(top: Path) -> str:
    """A digest of the names and sizes below ``top``: enough where only the presence of images matters.

    Raises:
        DatasetError: broken links, or links to a folder above.
    """
    found = scan(top)
    if found.problems:
        raise DatasetError(unreadable(top, found.problems))
    return digest({file.name: file.stat.st_size for file in found.files})


def _read_all(names: Sequence[str]) -> Iterator[tuple[str, str | OSError]]:
    """(name, sha256 or why not) of every file, by threads: reading and hashing leave the interpreter free."""
    if len(names) < 2:
        yield from _read(names)
        return
    from concurrent.futures import ThreadPoolExecutor

    parts = [names[start : start + PER_TASK] for start in range(0, len(names), PER_TASK)]
    if len(names) <= THREADS:
        parts = [[name] for name in names]
    with ThreadPoolExecutor(THREADS) as pool:
        for read in pool.map(_read, parts):
            yield from read


def _read(names: Sequence[str]) -> list[tuple[str, str | OSError]]:
    found: list[tuple[str, str | OSError]] = []
    for name in names:
        try:
            found.append((name, sha256_file(Path(name))))
        except OSError as error:
            found.append((name, error))
    return found


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}:{stat.st_ctime_ns}"


def _known(connection: sqlite3.Connection, names: list[str]) -> dict[str, tuple[str, str]]:
    """The remembered (stamp, sha256) of ``names``."""
    found: dict[str, tuple[str, str]] = {}
    for start in range(0, len(names), 500):  # sqlite limits the placeholders of one statement
        part = names[start : start + 500]
        marks = ",".join("?" * len(part))
        rows = connection.execute(f"SELECT path, stamp, sha256 FROM files WHERE path IN ({marks})", part)
        found.update({path: (stamp, sha) for path, stamp, sha in rows})
    return found
