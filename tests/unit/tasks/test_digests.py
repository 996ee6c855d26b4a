from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tasks import digests
from tasks.digests import DigestCache


def test_digest_ignores_the_order_of_keys() -> None:
    assert digests.digest({"a": 1, "b": [2]}) == digests.digest({"b": [2], "a": 1})


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
