from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.walking import scan


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a linked part, a file link, hidden entries and a plain file."""
    for name in ("store/train/a.png", "store/train/sub/b.png", "top/c.png", "top/.hidden/d.png", "top/.e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "top/train").symlink_to(tmp_path / "store/train")
    (tmp_path / "top/again.png").symlink_to("c.png")
    return tmp_path


def test_links_to_files_and_folders_are_followed_and_hidden_entries_left_out(tree: Path) -> None:
    found = scan(tree / "top")
    assert {file.name: file.real for file in found.files} == {
        "again.png": str(tree / "top/c.png"),
        "c.png": str(tree / "top/c.png"),
        "train/a.png": str(tree / "store/train/a.png"),
        "train/sub/b.png": str(tree / "store/train/sub/b.png"),
    }
    assert found.problems == {}


def test_top_may_be_a_link(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "top")
    assert scan(tree / "link") == scan(tree / "top")


def test_folder_that_two_links_name_is_there_twice(tree: Path) -> None:
    (tree / "top/val").symlink_to("train")
    names = [file.name for file in scan(tree / "top").files]
    assert {"train/sub/b.png", "val/sub/b.png"} <= set(names)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.symlink_to("gone"), "is a broken link to gone"),
        (lambda path: path.symlink_to("odd"), "is a link that leads back to itself"),
        (lambda path: path.symlink_to("."), "is a link to a folder above it"),
        (lambda path: path.symlink_to("train/up"), "is a link to a folder above it"),
        (lambda path: os.mkfifo(path), "is neither a file nor a folder"),
    ],
    ids=["broken", "self", "loop", "loop through a part", "pipe"],
)
def test_what_is_no_file_is_named_and_the_walk_ends(tree: Path, make, expected: str) -> None:
    (tree / "store/train/up").symlink_to(tree / "top")
    make(tree / "top/odd")
    found = scan(tree / "top")
    assert expected in found.problems["odd"]
    assert "is a link to a folder above it" in found.problems["train/up"]
    assert len(found.files) == 4


def test_nothing_there(tmp_path: Path) -> None:
    assert "cannot be read" in scan(tmp_path / "none").problems["."]
