"""Hostile archives, packed as zip and as tar: refused by name, and not a byte outside (nor left inside)."""

from __future__ import annotations

import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data.download.extract import extract
from detector.data.download.store import download
from detector.errors import DatasetError
from detector.fetch import Patience
from tests.unit.prepare.loopback import Behaviour, serving

QUICK = Patience(attempts=2, wait_s=0.001, timeout_s=5)
# name, content, what it is, where a link leads
Entry = tuple[str, bytes, str, str]
TAR_KINDS = {
    "file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "disk": tarfile.BLKTYPE, "pipe": tarfile.FIFOTYPE,
}  # fmt: skip
ZIP_KINDS = {
    "file": stat.S_IFREG, "folder": stat.S_IFDIR, "symlink": stat.S_IFLNK, "hardlink": stat.S_IFLNK,
    "device": stat.S_IFCHR, "disk": stat.S_IFBLK, "pipe": stat.S_IFIFO,
}  # fmt: skip


def as_tar(entries: list[Entry], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tape:  # type: ignore[call-overload]
        for name, content, kind, to in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = TAR_KINDS[kind], to
            info.size = len(content) if kind == "file" else 0
            tape.addfile(info, io.BytesIO(content) if info.size else None)
    return stream.getvalue()


def as_gz(entries: list[Entry]) -> bytes:
    return as_tar(entries, "w:gz")


def as_zip(entries: list[Entry]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content, kind, to in entries:
            info = zipfile.ZipInfo(name)
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (ZIP_KINDS[kind] | 0o644) << 16
            bundle.writestr(info, to.encode() if to else content)
    return stream.getvalue()


def file(name: str, content: bytes = b"evil") -> Entry:
    return name, content, "file", ""


OK = file("val2017/ok.jpg", b"fine")
HOSTILE: dict[str, tuple[list[Entry], str]] = {
    "traversal": ([OK, file("../evil")], "does not stay below"),
    "traversal inside": ([OK, file("val2017/../../../evil")], "does not stay below"),
    "traversal by long name": ([OK, file("../" * 60 + "evil")], "does not stay below"),
    "absolute": ([OK, file("/{outside}/evil")], "does not stay below"),
    "backslashes": ([OK, file("..\\..\\evil")], "does not stay below"),
    "only dots": ([OK, (".." + "/", b"", "folder", "")], "does not stay below"),
    "symlink": ([OK, ("val2017/l", b"", "symlink", "{outside}")], "is a link or a device"),
    "symlink, then through it": (
        [("out", b"", "symlink", "{outside}"), file("out/evil")],
        "is a link or a device",
    ),
    "symlink to itself": ([("l", b"", "symlink", "l")], "is a link or a device"),
    "hardlink": ([OK, ("val2017/h", b"", "hardlink", "{outside}/mine.txt")], "is a link or a device"),
    "hardlink, then written": (
        [("h", b"", "hardlink", "{outside}/mine.txt"), file("h")],
        "is a link or a device",
    ),
    "device": ([OK, ("val2017/zero", b"", "device", "")], "is a link or a device"),
    "disk": ([OK, ("val2017/sda", b"", "disk", "")], "is a link or a device"),
    "pipe": ([OK, ("val2017/pipe", b"", "pipe", "")], "is a link or a device"),
    "bomb": ([OK, file("val2017/zeros", bytes(3_000_000))], "takes the content beyond 1000000 bytes"),
    "bomb in pieces": ([file(f"{n}", bytes(300_000)) for n in range(5)], "takes the content beyond"),
    "twice": ([file("a", b"1"), file("a", b"2")], "appears twice"),
    "twice but for case": ([file("a/B", b"1"), file("A/b", b"2")], "appears twice"),
    "twice but for accents": ([file("\u00e9", b"1"), file("e\u0301", b"2")], "appears twice"),
    "file and folder": ([file("a", b"1"), file("a/b", b"2")], "cannot be extracted"),
    "folder and file": ([file("a/b", b"1"), file("a", b"2")], "cannot be extracted"),
    "deep": ([file("d/" * 40 + "f")], "is more than 32 folders deep"),
    "name too long": ([file("n" * 300)], "cannot be extracted"),
}


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def placed(entries: list[Entry], outside: Path) -> list[Entry]:
    """The entries with the path of a folder outside filled in."""
    where = str(outside).lstrip("/")
    return [
        (name.replace("{outside}", where), content, kind, to.replace("{outside}", str(outside)))
        for name, content, kind, to in entries
    ]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", [as_zip, as_tar, as_gz])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive(tmp_path: Path, name: str, pack: Callable[[list[Entry]], bytes]) -> None:
    entries, words = HOSTILE[name]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("keep")
    archive = tmp_path / "inner" / "archive"
    archive.parent.mkdir()
    archive.write_bytes(pack(placed(entries, outside)))
    before = snapshot(tmp_path)
    with pytest.raises(DatasetError, match=words):
        extract(archive, tmp_path / "inner" / "out", max_bytes=1_000_000)
    assert snapshot(tmp_path) == before


def test_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    content = bytearray(as_zip([file("zeros", bytes(3_000_000))]))
    true = (3_000_000).to_bytes(4, "little")
    while (at := content.find(true)) >= 0:
        content[at : at + 4] = (100).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(bytes(content))
    with pytest.raises(DatasetError, match="cannot be extracted"):
        extract(tmp_path / "x.zip", tmp_path / "out", max_bytes=1_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_sparse_tar_is_a_bomb_too(tmp_path: Path) -> None:
    """A header of the old GNU kind that promises 4 GB of holes."""
    info = tarfile.TarInfo("zeros")
    info.size = 512
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[156:157] = tarfile.GNUTYPE_SPARSE
    head[386:410] = b"00000000000\0" + b"00000001000\0"
    head[483:495] = b"40000000000\0"
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    (tmp_path / "x.tar").write_bytes(bytes(head) + bytes(512) + bytes(1024))
    with pytest.raises(DatasetError, match="takes the content beyond 2000000 bytes"):
        extract(tmp_path / "x.tar", tmp_path / "out", max_bytes=2_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.data.download.extract.MOST_ENTRIES", 50)
    (tmp_path / "x.tar").write_bytes(as_tar([file(str(n)) for n in range(60)]))
    with pytest.raises(DatasetError, match="comes after 50 others"):
        extract(tmp_path / "x.tar", tmp_path / "out")


def test_what_a_mac_adds_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(as_zip([OK, file("__MACOSX/val2017/._ok.jpg")]))
    out = extract(tmp_path / "x.zip", tmp_path / "out")
    assert [path.relative_to(out).as_posix() for path in out.rglob("*.*")] == ["val2017/ok.jpg"]


@pytest.mark.parametrize("depth", ["outer", "inner"])
def test_hostile_archive_on_the_way_into_the_store(tmp_path: Path, depth: str) -> None:
    evil = as_zip([OK, file("../../../evil")])
    served = evil if depth == "outer" else as_zip([OK, file("annotations/p.zip", evil)])
    with serving(Behaviour({"p.zip": served})) as url:
        inner = "inner: {annotations/p.zip: panoptic}"
        (tmp_path / "coco.yaml").write_text(f"dataset: coco\narchives: [{{url: '{url}/p.zip', {inner}}}]\n")
        with pytest.raises(DatasetError, match=r"does not stay below the folder.*do not use this archive"):
            download("coco", tmp_path / "store", source=tmp_path / "coco.yaml", patience=QUICK)
    names = {path.name for path in tmp_path.rglob("*")}
    assert not names & {"evil", "coco", "p.zip"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.text(st.sampled_from("ab./\\\u00e9 \n:"), min_size=1, max_size=12), min_size=1, max_size=4
    ),
    kind=st.sampled_from(["file", "folder", "symlink", "hardlink"]),
    tar=st.booleans(),
)
def test_no_name_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], kind: str, tar: bool
) -> None:
    top = tmp_path_factory.mktemp("top")
    (top / "a" / "b").mkdir(parents=True)
    entries: list[Entry] = [(name, b"x", kind, "../.." if "link" in kind else "") for name in names]
    archive = top / "a" / "b" / "archive"
    archive.write_bytes(as_tar(entries) if tar else as_zip(entries))
    before = snapshot(top)
    try:
        out = extract(archive, top / "a" / "b" / "out")
    except DatasetError:
        assert snapshot(top) == before
    else:
        after = snapshot(top)
        assert {path for path in after if not Path(path).is_relative_to(out)} == set(before)
        assert not any(path.is_symlink() for path in out.rglob("*"))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), tar=st.booleans())
def test_damage_anywhere_is_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tar: bool
) -> None:
    top, chance = tmp_path_factory.mktemp("top"), random.Random(seed)
    entries = [file(f"d/{n}", chance.randbytes(200)) for n in range(5)]
    content = bytearray(
        as_tar(entries, chance.choice(["w", "w:gz", "w:bz2", "w:xz"])) if tar else as_zip(entries)
    )
    for _ in range(chance.randrange(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    (top / "archive").write_bytes(bytes(content[: chance.randrange(len(content)) + 1]))
    try:
        extract(top / "archive", top / "out", max_bytes=10**6)
    except DatasetError:
        assert [path.name for path in top.iterdir()] == ["archive"]
