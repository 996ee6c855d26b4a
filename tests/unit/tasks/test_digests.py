from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from detector.errors import DatasetError
from tasks import digests
from tasks.digests import DigestCache


def test_digest_ignores_the_order_of_keys() -> None:
    assert digests.digest({"a": 1, "b": [2]}) == digests.digest({"b": [2], "a": 1})


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as old enough to be remembered at once."""
    monkeypatch.setattr(digests, "SETTLED_NS", 0)


@pytest.mark.usefixtures("settled")
def test_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    cache = DigestCache(tmp_path / "cache")
    assert cache.file(path) == hashlib.sha256(b"abc").hexdigest()
    monkeypatch.setattr(digests, "sha256_file", lambda path: "read again")
    assert cache.file(path) == hashlib.sha256(b"abc").hexdigest()
    os.utime(path, (1, 1))
    assert cache.file(path) == "read again"


def test_replaced_file_of_equal_size_and_time_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "a.bin", tmp_path / "b.bin"
    path.write_bytes(b"abc")
    other.write_bytes(b"xyz")
    os.utime(path, (1, 1))
    os.utime(other, (1, 1))
    cache = DigestCache(tmp_path / "cache")
    before = cache.file(path)
    other.replace(path)
    assert cache.file(path) != before


def test_file_that_has_just_changed_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within the clock's tick leaves size, times and inode as they are."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    found = path.stat()
    monkeypatch.setattr(digests, "_stamp", lambda stat: f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}")
    cache = DigestCache(tmp_path / "cache")
    before = cache.file(path)
    path.write_bytes(b"xyz")
    assert cache.file(path) == hashlib.sha256(b"xyz").hexdigest() != before


@pytest.mark.usefixtures("settled")
def test_replaced_content_with_the_old_time_is_noticed(tmp_path: Path) -> None:
    """As `cp -p` does: same inode, same size, same mtime."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    os.utime(path, (1, 1))
    cache = DigestCache(tmp_path / "cache")
    before = cache.file(path)
    path.write_bytes(b"xyz")
    os.utime(path, (1, 1))
    assert cache.file(path) != before


@pytest.mark.usefixtures("settled")
def test_touched_file_is_read_once_more_and_then_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    cache = DigestCache(tmp_path / "cache")
    before = cache.file(path)
    read: list[Path] = []
    monkeypatch.setattr(digests, "sha256_file", lambda path: read.append(path) or before)
    os.utime(path, (1, 1))
    assert [DigestCache(tmp_path / "cache").file(path) for _ in range(3)] == [before] * 3
    assert read == [path]


def test_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / "top" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "top" / name).write_text(name)
    real = digests.sha256_file

    def refuse(path: Path) -> str:
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(digests, "sha256_file", refuse)
    with pytest.raises(DatasetError, match=r"found 1 entries .*b\.png cannot be read \(Permission denied\)"):
        DigestCache(tmp_path / "cache").tree(tmp_path / "top")


def test_tree_is_the_digest_that_it_always_was(tmp_path: Path) -> None:
    """Keys of unchanged data stay: sha256 over the sorted JSON of relative path -> sha256."""
    (tmp_path / "top" / "sub").mkdir(parents=True)
    (tmp_path / "top" / "sub" / "a.png").write_bytes(b"abc")
    text = json.dumps({"sub/a.png": hashlib.sha256(b"abc").hexdigest()})
    assert DigestCache(tmp_path / "cache").tree(tmp_path / "top") == hashlib.sha256(text.encode()).hexdigest()


def test_tree_follows_links_and_names_count(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "city").mkdir(parents=True)
    (store / "city" / "a.png").write_bytes(b"1")
    linked = tmp_path / "linked"
    linked.symlink_to(store)
    cache = DigestCache(tmp_path / "cache")
    assert cache.tree(linked) == cache.tree(store)
    before = cache.tree(store)
    (store / "city" / "a.png").rename(store / "city" / "b.png")
    assert cache.tree(store) != before


def test_more_files_than_one_statement_holds(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    paths = [folder / f"{number:04}.txt" for number in range(620)]
    for path in paths:
        path.write_text(path.name)
    cache = DigestCache(tmp_path / "cache")
    first = cache.files(paths)
    assert cache.files(paths) == first
    assert list(first) == paths


def test_listing_sees_names_and_sizes_only(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    before = digests.listing(tmp_path)
    (tmp_path / "a.png").write_bytes(b"2")
    assert digests.listing(tmp_path) == before
    (tmp_path / "a.png").write_bytes(b"22")
    assert digests.listing(tmp_path) != before
