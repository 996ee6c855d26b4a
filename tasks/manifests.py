"""Manifests: what a data set's folder holds, as one small file that DVC versions in place of the folder.

DVC neither follows links in what it versions nor hashes many files quickly. A manifest lists every file below
a folder that may be, or hold, links, by relative path, size and sha256, so it is the same on every machine
that has the same data, and depending on it is depending on the data. The content digests are remembered
(``DigestCache``), so that taking a manifest again costs a look at each file's size and times.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from detector.errors import DatasetError
from detector.progress import Progress
from detector.whole_files import replacing
from tasks.digests import Contents, DigestCache, Entry, digest, unreadable
from tasks.walking import Scan, scan

HEADER = "# data manifest 1"
SHOWN = 5  # files of each kind that a message names
Files = Mapping[str, Entry]


class Drift(NamedTuple):
    """How a folder differs from its manifest: relative paths, sorted."""

    changed: list[str]
    missing: list[str]
    added: list[str]

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.changed or self.missing or self.added)

    @property
    def counts(self) -> str:
        """The numbers of files, in words."""
        return f"{len(self.changed)} changed, {len(self.missing)} missing, {len(self.added)} added"

    def named(self, shown: int = SHOWN) -> list[str]:
        """One line per kind of difference with the first files of it."""
        lines = []
        for kind, names in self._asdict().items():
            if names:
                more = f" and {len(names) - shown} more" if len(names) > shown else ""
                lines.append(
                    f"{kind}: {', '.join(name or 'the file itself' for name in names[:shown])}{more}"
                )
        return lines


def take(root: Path, leave: Collection[str] = ()) -> dict[str, Entry]:
    """What the files below ``root`` hold now.

    Args:
        root: a folder, or a link to one.
        leave: entries of ``root`` that are no part of the data, because steps make them.

    Raises:
        DatasetError: nothing is there; or broken links, links to a folder above, or unreadable files.
    """
    if not root.is_dir():
        raise DatasetError(
            f"{root}: found {'a broken link' if root.is_symlink() else 'no folder'}; expected the folder "
            f"of a data set, or a link to one. Put or link the data there."
        )
    found = read(root, leave)
    if found.problems:
        raise DatasetError(unreadable(root, found.problems))
    return found.files


def read(root: Path, leave: Collection[str] = ()) -> Contents:
    """As ``take``, but what cannot be read is told with the rest."""
    walked = scan(root)
    kept = [file for file in walked.files if file.name.split("/")[0] not in leave]
    problems = {name: why for name, why in walked.problems.items() if name.split("/")[0] not in leave}
    progress = Progress(None, f"read {root}")  # shown from the first batch on that is not remembered
    try:
        return DigestCache().of_scan(Scan(kept, problems), progress)
    finally:
        progress.close(finished=False)


def compare(recorded: Files, now: Files) -> Drift:
    """What differs between two states of a folder."""
    return Drift(
        changed=sorted(name for name, entry in now.items() if name in recorded and recorded[name] != entry),
        missing=sorted(name for name in recorded if name not in now),
        added=sorted(name for name in now if name not in recorded),
    )


def below(files: Files, folder: str) -> dict[str, Entry]:
    """The part of a manifest below a folder, by paths from there; of a file, under the empty name."""
    if folder in files:
        return {"": files[folder]}
    start = f"{folder}/" if folder else ""
    return {name[len(start) :]: entry for name, entry in files.items() if name.startswith(start)}


def without(files: Files, leave: Collection[str]) -> dict[str, Entry]:
    """The files that are not, or below, one of the entries ``leave`` of the top."""
    return {name: entry for name, entry in files.items() if name.split("/")[0] not in leave}


def save(path: Path, files: Files) -> None:
    """Write a manifest whole: a head with the totals, then one sorted line per file."""
    size = sum(entry.size for entry in files.values())
    with replacing(path) as stream:
        stream.write(f"{HEADER} files={len(files)} bytes={size} digest={_digest(files)}\n".encode())
        for name in sorted(files):
            stream.write(f"{files[name].sha256} {files[name].size} {_quoted(name)}\n".encode())


def load(path: Path) -> dict[str, Entry]:
    """Read a manifest.

    Raises:
        DatasetError: the file is no manifest, or not whole.
    """
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        files = {}
        for line in lines:
            sha256, size, name = line.split(" ", 2)
            files[json.loads(name) if name[:1] == '"' else name] = Entry(int(size), sha256)
    except ValueError as error:
        raise DatasetError(_damaged(path, f"a file that is none ({error})")) from error
    if not head.startswith(f"{HEADER} "):
        raise DatasetError(_damaged(path, f"{head[:60]!r}"))
    if f"digest={_digest(files)}" not in head:
        raise DatasetError(_damaged(path, f"{len(files)} files that are not those of its first line"))
    return files


def drifted(path: Path, manifest: Path, drift: Drift, name: str) -> str:
    """A message about data that is not what its manifest says."""
    return (
        f"{path}: found {drift.counts} since {manifest} was recorded; expected the recorded files. "
        f"{'; '.join(drift.named())}. Restore them, or take the data as it is now: "
        f"`python -m tasks data record --name {name}`."
    )


def total(files: Files) -> str:
    """The number and size of the files, in words."""
    size = sum(entry.size for entry in files.values())
    return f"{len(files)} files, {size / 1e6:.1f} MB"


def _digest(files: Files) -> str:
    return digest({name: entry.sha256 for name, entry in files.items()})


def _quoted(name: str) -> str:
    """A path as one line: as JSON when it holds what would not print, or starts like it."""
    return json.dumps(name) if not name.isprintable() or name[:1] == '"' else name


def _damaged(path: Path, found: str) -> str:
    return (
        f"{path}: found {found}; expected a data manifest. Restore it from version control, or make it "
        f"anew: `python -m tasks data record --name {path.stem}`."
    )
