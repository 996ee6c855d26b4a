"""Whole files: what a failing or killed writer leaves, and who may delete it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from detector.whole_files import remove_leftovers, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_takes_the_old_ones_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with replacing(tmp_path / "a") as stream:
        stream.write(b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_a_failed_check_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    seen = []

    def check(temporary: Path) -> None:
        seen.append(temporary.read_bytes())
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), replacing(tmp_path / "a", check) as stream:
        stream.write(b"new")
    assert seen == [b"new"]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_living_writers_file_is_not_a_leftover(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.pth") as stream:
        stream.write(b"x")
        assert remove_leftovers(tmp_path, lambda name: True) == []
    assert names(tmp_path) == ["a.pth"]


def test_a_killed_writers_file_is_one_even_if_its_number_lives_again(tmp_path: Path) -> None:
    lines = ["import pathlib, sys, time", "from detector.whole_files import replacing"]
    lines += [
        "with replacing(pathlib.Path(sys.argv[1])) as stream:",
        "    print(1, flush=True)",
        "    time.sleep(60)",
    ]
    code = "\n".join(lines)
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.pth")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert remove_leftovers(tmp_path, lambda name: True) == []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = tmp_path.iterdir()
    mine = left.with_name(
        f".a.pth.{os.getpid()}.1.tmp"
    )  # as in a container whose processes count from 1 again
    left.rename(mine)
    assert remove_leftovers(tmp_path, lambda name: name == "b.pth") == []
    assert remove_leftovers(tmp_path, lambda name: name == "a.pth") == [mine]
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a.tmp", ".a.pth.tmp", ".a.pth.x.1.tmp", ".hidden"])
def test_other_files_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert remove_leftovers(tmp_path, lambda found: True) == []
    assert names(tmp_path) == [name]
