"""A submission as it lies on disk, a file, a folder or a zip, read the same way; and zips written flat.

Nothing is extracted: members are read one by one in memory, by the names the archive's own list gives.
"""

from __future__ import annotations

import contextlib
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from detector.errors import DatasetError
from detector.evaluation.submissions.findings import Findings
from detector.lineage.carriers import zip_comment
from detector.whole_files import replacing

# Deterministic archives: every entry gets zip's first date.
_FIRST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
# No submission of the four servers comes near: COCO's largest are 2.6 GB of JSON.
MAX_UNPACKED = 16 * 10**9
# What a system's archiver adds by itself; servers stumble over it.
_LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
_ENCRYPTED = 0x1


class Package:
    """The files of a submission by name.

    Attributes:
        path: the file, folder or zip.
        form: 'file', 'folder' or 'zip'.
        names: names of the files, sorted, below the folder or in the zip.
    """

    def __init__(self, path: Path, form: str, files: Mapping[str, Callable[[], bytes]]) -> None:
        self.path, self.form, self._files = path, form, dict(sorted(files.items()))

    @property
    def names(self) -> list[str]:
        """Names of the files, sorted."""
        return list(self._files)

    def read(self, name: str) -> bytes:
        """Content of a file.

        Raises:
            DatasetError: it cannot be read, or is damaged.
        """
        try:
            return self._files[name]()
        except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
            raise DatasetError(f"{name}: cannot be read ({error})") from error


@contextlib.contextmanager
def opened(path: Path, findings: Findings) -> Iterator[Package]:
    """The package at a path; faults of an archive's layout go to ``findings`` and are left out of it.

    Raises:
        DatasetError: there is nothing at the path.
    """
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
        yield Package(path, "folder", {name: file.read_bytes for name, file in files.items()})
    elif not path.is_file():
        raise DatasetError(
            f"{path}: found nothing; expected a results file, a folder or a zip. Write one with `detector "
            "test ... --format-only`."
        )
    elif path.suffix.lower() == ".zip":
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            findings.add("zip", f"{path.name} is not a zip file ({error})")
            yield Package(path, "zip", {})
            return
        with archive:
            yield Package(path, "zip", _members(archive, findings))
    else:
        yield Package(path, "file", {path.name: path.read_bytes})


def _members(archive: zipfile.ZipFile, findings: Findings) -> dict[str, Callable[[], bytes]]:
    """The usable entries of an archive."""
    entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if total > MAX_UNPACKED:
        findings.add("zip", f"the entries are {total / 1e9:.1f} GB when unpacked, expected at most 16 GB")
        return {}
    for name, count in Counter(entry.filename for entry in entries).items():
        if count > 1:
            findings.add("zip", f"{name!r} is stored {count} times, expected every name once")
    files: dict[str, Callable[[], bytes]] = {}
    for entry in entries:
        fault = _entry_fault(entry)
        if fault is not None:
            findings.add("zip", f"{entry.filename!r} {fault}")
        elif not entry.is_dir():
            files[entry.filename] = partial(archive.read, entry)
    return files


def _entry_fault(entry: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry, apart from lying in a folder."""
    parts = PurePosixPath(entry.filename).parts
    if entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename:
        return "leaves the archive or holds a backslash, expected a plain file name"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted, expected a zip without a password"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link, expected a file"
    return None


def check_flat(package: Package, findings: Findings, *, folder: str = "") -> list[str]:
    """Names of the files that lie flat (or in ``folder``); the others are faults.

    Args:
        package: the submission.
        findings: where the faults go.
        folder: a pattern such as ``results/VOC*/Main`` that is as good as flat.
    """
    flat = []
    for name in package.names:
        path = PurePosixPath(name)
        if set(path.parts) & set(_LITTER):
            findings.add("layout", f"{name} was added by the system's archiver; leave it out")
        elif len(path.parts) > 1 and not (folder and path.parent.match(folder)):
            expected = f"flat or in {folder}/" if folder else "flat, without folders"
            findings.add("layout", f"{name} lies in a folder, expected the files {expected}")
        else:
            flat.append(name)
    return flat


def write_zip(
    path: str | Path, entries: Iterable[tuple[str, Callable[[], bytes]]], *, max_bytes: int | None = None
) -> Path:
    """Write a zip that appears whole; the same entries and stamp give the same bytes.

    Args:
        path: file to write.
        entries: (name, function that gives the content), one after the other in memory.
        max_bytes: size that the server takes.

    Raises:
        DatasetError: the zip is larger; no file is left.
    """
    path = Path(path)
    with replacing(path) as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.comment = zip_comment()
            for name, read in entries:
                entry = zipfile.ZipInfo(name, _FIRST_ZIP_DATE)
                entry.external_attr = 0o644 << 16
                packed = name.endswith(".png")  # deflated already
                archive.writestr(entry, read(), zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED)
        size = stream.tell()
        if max_bytes is not None and size > max_bytes:
            raise DatasetError(f"{path}: {too_large(size, max_bytes)}")
    return path


def too_large(size: int, max_bytes: int) -> str:
    """The words for a zip beyond the server's limit."""
    return (
        f"found {size / 1e6:.1f} MB of zip, expected at most {max_bytes / 1e6:g} MB; keep fewer results "
        "(a higher score threshold or a lower max_per_img)"
    )


def deflated_size(package: Package, names: Iterable[str]) -> int:
    """Bytes that files take in a zip, about."""
    size = 0
    for name in names:
        data = package.read(name)
        size += len(data) if name.endswith(".png") else len(zlib.compress(data, 6))
    return size
