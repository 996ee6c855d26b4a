"""Extracting an archive of unknown origin.

Only plain files and folders, only below the target, only so many bytes. A killed extraction is continued:
files that are there already are compared with the archive's and rewritten where they differ.
"""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from detector.errors import DatasetError, MachineError
from detector.fetch.checks import require_space

# Pictures hardly shrink and annotations shrink tenfold; a bomb grows a thousandfold.
LARGEST_GROWTH = 100
ALWAYS_ALLOWED = 1 << 30
MOST_ENTRIES = 1_000_000
DEEPEST = 32
CHUNK = 1 << 20
#: what archives made on a Mac hold beside the files
IGNORED = "__MACOSX"
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError,
    struct.error,
)  # fmt: skip
# A file and a folder of one name, or a name that no file system takes; no number: a decompressor's error.
UNFIT = (None, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class DamagedArchiveError(DatasetError):
    """The archive is damaged, not hostile: another copy may be whole."""


def extract(
    archive: Path,
    into: Path,
    *,
    max_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Extract a zip or tar file to a new folder that appears whole, or not at all.

    Args:
        archive: .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz, told by content.
        into: folder to make; must not exist. Until all is there, the files are in a hidden folder beside it,
            where a later call finds them if this one is killed.
        max_bytes: most bytes to write; by default 100 times the archive, at least 1 GiB.
        progress: called with (bytes done, bytes in all) after each file.

    Returns:
        ``into``.

    Raises:
        DatasetError: the archive is damaged, holds a link, a device, two entries of one name or a path that
            leaves the folder, or grows beyond the limit. Nothing is left behind then.
        MachineError: the disk is full or broken; what is there is kept for the next call.
    """
    if into.exists() or into.is_symlink():
        raise DatasetError(
            f"{into}: exists already, expected a new folder to extract {archive.name} to. Move it away."
        )
    growth = max(ALWAYS_ALLOWED, LARGEST_GROWTH * archive.stat().st_size)
    unfinished = into.with_name(f".{into.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        _extract_all(archive, unfinished, growth if max_bytes is None else max_bytes, progress)
    except DatasetError:
        shutil.rmtree(unfinished)
        raise
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno not in UNFIT:
            raise MachineError(
                f"{unfinished}: cannot be written ({error.strerror}). Free space or correct the rights and "
                "try again; what is there is kept."
            ) from error
        shutil.rmtree(unfinished)
        raise DamagedArchiveError(
            f"{archive}: cannot be extracted ({error}). Delete it and download it again."
        ) from error
    unfinished.rename(into)
    return into


def _extract_all(archive: Path, root: Path, limit: int, progress: Callable[[int, int], None] | None) -> None:
    written = 0
    seen: set[str] = set()
    kept: set[Path] = set()
    for count, (name, stream, done, total) in enumerate(_entries(archive, root, limit)):
        target = _target(archive, root, name)
        if count >= MOST_ENTRIES:
            raise _refused(archive, name, f"comes after {MOST_ENTRIES} others")
        if target is None:
            continue
        if stream is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        key = unicodedata.normalize("NFC", str(target)).casefold()
        if key in seen:
            raise _refused(archive, name, "appears twice")
        seen.add(key)
        kept.add(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with stream:
            size = _write(stream, target, limit - written)
        if size is None:
            raise _refused(archive, name, f"takes the content beyond {limit} bytes")
        written += size
        if progress:
            progress(done, total)
    _remove_others(root, kept)


def _entries(archive: Path, root: Path, limit: int) -> Iterator[tuple[str, IO[bytes] | None, int, int]]:
    """(name, content, bytes until its end, bytes in all) of every entry; content is None for a folder."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            entries = bundle.infolist()
            total, done = sum(entry.file_size for entry in entries), 0
            if total > limit:
                raise _refused(archive, entries[-1].filename, f"takes the content beyond {limit} bytes")
            require_space(root, total - _bytes_below(root), f"the content of {archive.name}")
            for entry in entries:
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(archive, entry.filename, "is a link or a device")
                done += entry.file_size
                yield entry.filename, None if entry.is_dir() else bundle.open(entry), done, total
    else:
        total = archive.stat().st_size
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as tape:
            for member in tape:
                if not (member.isreg() or member.isdir()):
                    raise _refused(archive, member.name, "is a link or a device")
                stream = tape.extractfile(member) if member.isreg() else None
                yield member.name, stream, file.tell(), total


def _target(archive: Path, root: Path, name: str) -> Path | None:
    """Where an entry goes; None for one that is left out."""
    parts = name.rstrip("/").split("/")
    parts = parts[1:] if parts[0] == "." else parts
    bad = not name or "\\" in name or "\0" in name or name.startswith("/")
    if bad or any(part in ("", "..", ".") for part in parts):
        raise _refused(archive, name, "does not stay below the folder")
    if len(parts) > DEEPEST:
        raise _refused(archive, name, f"is more than {DEEPEST} folders deep")
    return None if parts[:1] == [IGNORED] else root.joinpath(*parts)


def _write(stream: IO[bytes], target: Path, most: int) -> int | None:
    """Write a file; where it has the right bytes already, nothing is written.

    Returns:
        Its bytes; None when it has more than ``most``.
    """
    # The file may be there from a killed extraction; a link can only come from outside and is not followed.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    written = 0
    with os.fdopen(os.open(target, flags, 0o666), "r+b") as file:
        same = os.fstat(file.fileno()).st_size > 0
        while chunk := stream.read(CHUNK):
            if written + len(chunk) > most:
                return None
            if same and file.read(len(chunk)) != chunk:
                same = False
                file.seek(written)
            if not same:
                file.write(chunk)
            written += len(chunk)
        file.truncate(written)
    return written


def _bytes_below(folder: Path) -> int:
    return sum((Path(base) / name).stat().st_size for base, _, names in os.walk(folder) for name in names)


def _remove_others(root: Path, kept: set[Path]) -> None:
    """Remove what an earlier try left that this archive does not hold."""
    for folder, _, names in os.walk(root):
        for path in {Path(folder) / name for name in names} - kept:
            path.unlink()


def _refused(archive: Path, name: str, why: str) -> DatasetError:
    return DatasetError(
        f"{archive}: entry {name!r} {why}; expected plain files and folders below the target. Nothing was "
        "extracted; do not use this archive."
    )
