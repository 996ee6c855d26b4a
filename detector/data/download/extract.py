"""Extracting an archive of unknown origin.

Only plain files and folders, only below the target, only so many bytes.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from detector.errors import DatasetError

# Pictures hardly shrink and annotations shrink tenfold; a bomb grows a thousandfold.
LARGEST_GROWTH = 100
ALWAYS_ALLOWED = 1 << 30
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    RuntimeError,
)
CLASHES = (FileExistsError, NotADirectoryError, IsADirectoryError)


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
        into: folder to make; must not exist.
        max_bytes: most bytes to write; by default 100 times the archive, at least 1 GiB.
        progress: called with (bytes of content written, limit) after each file.

    Returns:
        ``into``.

    Raises:
        DatasetError: the archive is damaged, holds a link, a device, two entries of one name or a path that
            leaves
            the folder, or grows beyond the limit. Nothing is left behind then.
    """
    if into.exists() or into.is_symlink():
        raise DatasetError(
            f"{into}: exists already, expected a new folder to extract {archive.name} to. Move it away."
        )
    limit = (
        max_bytes if max_bytes is not None else max(ALWAYS_ALLOWED, LARGEST_GROWTH * archive.stat().st_size)
    )
    temporary = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _extract_all(archive, temporary, limit, progress)
        temporary.rename(into)
    except (*BROKEN, *CLASHES) as error:
        raise DatasetError(
            f"{archive}: cannot be extracted ({error}). Delete it and download it again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return into


def _extract_all(archive: Path, root: Path, limit: int, progress: Callable[[int, int], None] | None) -> None:
    written = 0
    seen: set[str] = set()
    for name, stream in _entries(archive):
        target = _target(archive, root, name)
        key = str(target).casefold()
        if stream is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        if key in seen:
            raise _refused(archive, name, "appears twice")
        seen.add(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        with stream, target.open("xb") as file:
            while chunk := stream.read(1 << 20):
                written += len(chunk)
                if written > limit:
                    raise _refused(archive, name, f"takes the content beyond {limit} bytes")
                file.write(chunk)
        if progress:
            progress(written, limit)


def _entries(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, content) of every entry; content is None for a folder."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for entry in bundle.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(archive, entry.filename, "is a link or a device")
                yield entry.filename, None if entry.is_dir() else bundle.open(entry)
    else:
        with tarfile.open(archive, "r|*") as tape:
            for member in tape:
                if not (member.isreg() or member.isdir()):
                    raise _refused(archive, member.name, "is a link or a device")
                yield member.name, tape.extractfile(member) if member.isreg() else None


def _target(archive: Path, root: Path, name: str) -> Path:
    parts = name.rstrip("/").split("/")
    parts = parts[1:] if parts[0] == "." else parts
    bad = not name or "\\" in name or "\0" in name or name.startswith("/")
    if bad or any(part in ("", "..", ".") for part in parts):
        raise _refused(archive, name, "does not stay below the folder")
    return root.joinpath(*parts)


def _refused(archive: Path, name: str, why: str) -> DatasetError:
    return DatasetError(
        f"{archive}: entry {name!r} {why}; expected plain files and folders below the target. Nothing was "
        "extracted; do "
        "not use this archive."
    )
