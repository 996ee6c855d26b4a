"""Extraction of honest and hostile archives; after a refusal nothing is left, inside or outside."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.data.download.extract import extract
from detector.errors import DatasetError, MachineError


def make_zip(path: Path, entries: list[tuple[str, bytes]], kind: int = stat.S_IFREG) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(info, content)
    return path


def make_tar(
    path: Path, entries: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE, mode: str = "w"
) -> Path:
    with tarfile.open(path, mode) as tape:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/hostname" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tape.addfile(info, io.BytesIO(content) if info.size else None)
    return path


def assert_refused(archive: Path, words: str, **options: int) -> None:
    before = sorted(p for p in archive.parent.rglob("*"))
    with pytest.raises(DatasetError, match=words):
        extract(archive, archive.parent / "inner" / "out", **options)
    after = sorted(p for p in archive.parent.rglob("*") if p != archive.parent / "inner")
    assert after == before


GOOD = [("a/one.txt", b"1"), ("a/b/two.txt", b"22"), ("three.txt", b"")]


@pytest.mark.parametrize(
    "make",
    [
        lambda d: make_zip(d / "x.zip", GOOD),
        lambda d: make_tar(d / "x.tar", GOOD),
        lambda d: make_tar(d / "x.tar.gz", GOOD, mode="w:gz"),
        lambda d: make_tar(d / "x.tar.xz", GOOD, mode="w:xz"),
    ],
    ids=["zip", "tar", "gz", "xz"],
)
def test_honest_archive(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    out = extract(make(tmp_path), tmp_path / "out")
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert files == dict(GOOD)


def test_tar_that_begins_with_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "f.txt").write_text("x")
    with tarfile.open(tmp_path / "x.tar", "w") as tape:
        tape.add(tmp_path / "in", arcname=".")
    assert (extract(tmp_path / "x.tar", tmp_path / "out") / "f.txt").read_text() == "x"


LEAVING = ["../evil", "a/../../evil", "/evil", "a\\..\\evil", "a//b", "..", "a/./b"]


@pytest.mark.parametrize("name", LEAVING)
def test_zip_path_that_leaves(tmp_path: Path, name: str) -> None:
    assert_refused(
        make_zip(tmp_path / "x.zip", [("ok", b"1"), (name, b"2")]), "does not stay below the folder"
    )


@pytest.mark.parametrize("name", LEAVING)
def test_tar_path_that_leaves(tmp_path: Path, name: str) -> None:
    assert_refused(
        make_tar(tmp_path / "x.tar", [("ok", b"1"), (name, b"2")]), "does not stay below the folder"
    )


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_tar_link_or_device(tmp_path: Path, kind: bytes) -> None:
    assert_refused(make_tar(tmp_path / "x.tar", [("thing", b"")], kind), "is a link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_link_or_device(tmp_path: Path, kind: int) -> None:
    assert_refused(make_zip(tmp_path / "x.zip", [("thing", b"/etc/hostname")], kind), "is a link or a device")


def test_bomb(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", [("zeros", bytes(3_000_000))])
    assert archive.stat().st_size < 10_000
    assert_refused(archive, "takes the content beyond 1000000 bytes", max_bytes=1_000_000)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "a"], "'a' appears twice"),
        (["a", "A"], "'A' appears twice"),
        (["a", "a/b"], "cannot be extracted"),
    ],
)
def test_duplicate_names(tmp_path: Path, names: list[str], words: str) -> None:
    assert_refused(make_tar(tmp_path / "x.tar", [(name, b"1") for name in names]), words)


def test_truncated_tar(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tar", [("a", bytes(5000)), ("b", bytes(5000))])
    archive.write_bytes(archive.read_bytes()[:4000])
    assert_refused(archive, "cannot be extracted")


def test_damaged_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", [("a", b"some text " * 50)])
    data = bytearray(archive.read_bytes())
    data[40] ^= 0xFF
    archive.write_bytes(bytes(data))
    assert_refused(archive, "cannot be extracted")


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"<html>please log in</html>")
    assert_refused(tmp_path / "x.zip", "cannot be extracted")


def test_existing_target_is_kept(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", GOOD)
    (tmp_path / "out").mkdir()
    with pytest.raises(DatasetError, match="exists already"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_a_killed_extraction_left_is_checked(tmp_path: Path, kind: str) -> None:
    files = {name: (name * 3000).encode() for name in ("whole", "half", "wrong", "long", "missing")}
    make = make_zip if kind == "zip" else make_tar
    archive = make(tmp_path / "archive", list(files.items()))
    left = tmp_path / ".out.unfinished"
    left.mkdir()
    (left / "whole").write_bytes(files["whole"])
    (left / "half").write_bytes(files["half"][:5000])
    (left / "wrong").write_bytes(files["wrong"][:-1] + b"!")
    (left / "long").write_bytes(files["long"] + b"more")
    (left / "of another archive").write_text("x")
    out = extract(archive, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    assert not left.exists()


def test_link_in_what_was_left_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / ".out.unfinished" / "a").symlink_to(tmp_path / "mine.txt")
    with pytest.raises((DatasetError, MachineError)):
        extract(make_tar(tmp_path / "x.tar", [("a", b"evil")]), tmp_path / "out")
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "x.tar", [("a", b"1"), ("b", b"2")])
    real = os.open

    def full(path: str, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith("/b"):
            raise OSError(28, "No space left on device")
        return real(path, flags, mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(MachineError, match=r"No space left on device.*what is there is kept"):
            extract(archive, tmp_path / "out")
    assert (tmp_path / ".out.unfinished" / "a").read_bytes() == b"1"
    assert sorted(path.name for path in extract(archive, tmp_path / "out").iterdir()) == ["a", "b"]
