"""One archive of a data set: from a server, a mirror or a folder into the data set's tree.

Everything unfinished lies in a work folder beside the tree; killed anywhere, the next call goes on from
there. What an archive has given is listed in ``.archives/<archive>.json`` of the tree, its receipt.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.data.download.cityscapes import download_package
from detector.data.download.extract import DamagedArchiveError, extract
from detector.data.download.sources import Archive
from detector.errors import DatasetError
from detector.fetch import PATIENCE, Patience, fetch
from detector.fetch.checks import expected, length, require_space, wrong
from detector.whole_files import replacing

RECEIPTS = ".archives"
ProgressFor = Callable[[str], Callable[[int, int], None] | None]


@dataclass(frozen=True)
class Ways:
    """How archives are fetched.

    Attributes:
        mirrors: servers or folders that hold the archives by name, tried in order; without any, each archive
            comes from its own address.
        connections: parts of one archive that are fetched at once.
        patience: how often and how long to try.
        by_hand: how the user can place the data, said when a login fails.
        progress: given what is done, returns a callback of (done, total) or None.
    """

    mirrors: Sequence[str] = ()
    connections: int = 4
    patience: Patience = PATIENCE
    by_hand: str = ""
    progress: ProgressFor | None = None

    def shown(self, what: str) -> Callable[[int, int], None] | None:
        """The callback for a piece of work."""
        return self.progress(what) if self.progress else None


def is_held(root: Path, archive: Archive) -> bool:
    """Whether a tree holds all files that the archive gave, and the archive is still the same."""
    try:
        receipt = json.loads(_receipt(root, archive).read_text(encoding="utf-8"))
        held, files = receipt["key"], receipt["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return held == archive.key and all((root / name).is_file() for name in files)


def require_room(work: Path, archives: Sequence[Archive]) -> None:
    """Check the disk before the first byte.

    The largest archive lies beside its content for a while, and pictures do not shrink; archives of unknown
    size are checked when the server tells it, and the content again before it is extracted.

    Raises:
        MachineError: the disk is too small.
    """
    sizes = [archive.size or 0 for archive in archives]
    here = sum(_blocks(path) for path in work.rglob("*")) if work.is_dir() else 0
    needed = sum(sizes) + max(sizes, default=0) - here
    require_space(work, needed, f"{len(archives)} archives and their content")


def bring(archive: Archive, work: Path, root: Path, ways: Ways) -> None:
    """Fetch an archive, extract it and move its files into a tree.

    Args:
        archive: what to bring.
        work: folder for unfinished things, on the same disk as ``root``.
        root: the tree; files of the same names are replaced.
        ways: how.

    Raises:
        DatasetError: it cannot be fetched, or is hostile or damaged.
        MachineError: the disk is full or too small.
    """
    # Named by what the archive is, so that nothing is taken for it that an older source file asked for.
    stem = f"{archive.file_name}.{hashlib.sha256(json.dumps(archive.key).encode()).hexdigest()[:8]}"
    ready, listing = work / f"{stem}.ready", work / f"{stem}.json"
    if not listing.is_file():
        _prepare(archive, work, ready, ways)
        into = Path(archive.into)
        files = [(into / path.relative_to(ready)).as_posix() for path in ready.rglob("*") if path.is_file()]
        # Files before the list that vouches for them: a machine that loses power must not keep only the list.
        os.sync()
        with replacing(listing) as stream:
            stream.write(json.dumps({"key": archive.key, "files": sorted(files)}).encode())
    _merge(ready, root / archive.into)
    receipt = _receipt(root, archive)
    receipt.parent.mkdir(parents=True, exist_ok=True)
    listing.replace(receipt)
    (work / archive.file_name).unlink(missing_ok=True)


def _receipt(root: Path, archive: Archive) -> Path:
    return root / RECEIPTS / f"{archive.file_name}.json"


def _prepare(archive: Archive, work: Path, ready: Path, ways: Ways) -> None:
    """Have the archive's content in ``ready``, whole; an archive damaged on the way is fetched once more."""
    if ready.is_dir():
        return
    for last in (False, True):
        path = _obtain(archive, work, ways)
        ours = path.parent == work
        try:
            _unpack(archive, path, ready, ways)
            return
        except DatasetError as error:
            # The next call is to fetch another copy, not to fail on this one again.
            for unfinished in (".new", ".inner"):
                shutil.rmtree(ready.with_suffix(unfinished), ignore_errors=True)
            if ours:
                path.unlink()
            if not ours or not isinstance(error, DamagedArchiveError):
                raise
            if last:
                raise DatasetError(
                    f"{archive.file_name}: came damaged twice ({error.__cause__}), expected a whole archive. "
                    "Try again later, or name another server with --mirror."
                ) from error


def _unpack(archive: Archive, path: Path, ready: Path, ways: Ways) -> None:
    new = ready.with_suffix(".new")
    if not new.is_dir():
        extract(path, new, progress=ways.shown(f"extract {path.name}"))
    for inner, folder in archive.inner.items():
        if (new / inner).is_file():
            content = ready.with_suffix(".inner")
            if not content.is_dir():
                extract(new / inner, content, progress=ways.shown(f"extract {Path(inner).name}"))
            _merge(content, new / folder)
            (new / inner).unlink()
    new.rename(ready)


def _obtain(archive: Archive, work: Path, ways: Ways) -> Path:
    """The archive as a file: below ``work``, or where a mirror folder holds it."""
    target, faults = work / archive.file_name, []
    if target.is_file() and not wrong(target, archive.size, archive.checksum):
        return target
    for mirror in ways.mirrors:
        if not mirror.startswith(("http://", "https://")):
            path = Path(mirror).expanduser() / archive.file_name
            fault = _unfit(path, archive)
            if not fault:
                return path
            faults.append(fault)
            continue
        try:
            return _fetch(f"{mirror.rstrip('/')}/{archive.file_name}", target, archive, ways)
        except DatasetError as error:
            faults.append(str(error))
    if ways.mirrors:
        raise DatasetError(f"{archive.file_name}: no mirror has it. {' '.join(faults)}")
    if archive.package:
        return download_package(archive, target, patience=ways.patience, by_hand=ways.by_hand)
    return _fetch(archive.url, target, archive, ways)


def _fetch(url: str, target: Path, archive: Archive, ways: Ways) -> Path:
    return fetch(
        url,
        target,
        size=archive.size,
        checksum=archive.checksum,
        connections=ways.connections,
        patience=ways.patience,
        progress=ways.shown(archive.file_name),
    )


def _unfit(path: Path, archive: Archive) -> str:
    """Why a file of a mirror folder cannot be used, or an empty string."""
    if not path.is_file():
        return f"{path}: found nothing, expected the archive. Place it there, or name another --mirror."
    fault = wrong(path, archive.size, archive.checksum)
    return (
        f"{path}: {fault}; expected {expected(archive.size, archive.checksum)}. Replace it." if fault else ""
    )


def _merge(source: Path, target: Path) -> None:
    """Move a folder's content into another one, by as few renames as possible; continues a killed move."""
    if not source.is_dir():
        return
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    if not target.is_dir():
        raise DatasetError(f"{target}: found a file, expected a folder or nothing. Move it away.")
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            _merge(entry, target / entry.name)
        else:
            _move(entry, target / entry.name)
    source.rmdir()


def _move(file: Path, target: Path) -> None:
    try:
        file.replace(target)
    except IsADirectoryError as error:
        raise DatasetError(f"{target}: found a folder, expected a file or nothing. Move it away.") from error
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The user keeps this folder on another disk, by a link.
        with file.open("rb") as content, replacing(target) as stream:
            shutil.copyfileobj(content, stream)
        file.unlink()


def _blocks(path: Path) -> int:
    """Bytes that a file takes on the disk: a part file is as long as the whole, but has holes."""
    return min(path.lstat().st_blocks * 512, length(path)) if not path.is_symlink() else 0
