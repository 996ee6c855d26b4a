from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.errors import DatasetError
from tasks import __main__ as command
from tasks import digests, manifests, prepare
from tasks.digests import DigestCache, Entry
from tasks.request import DataRequest, Request
from tasks.steps import Job, Receipt, receipt_path, write_json

CONFIG = """
data = dict(train=dict(type='CocoDataset', ann_file='data/mine/train.json', img_prefix='data/mine/images/'))
"""
SHA = "ab" * 32


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data/mine is a link to a folder with linked images."""
    project = tmp_path / "project"
    for name in ("disk/a.png", "disk/b.png", "disk/sub/c.png", "mine/train.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "mine/images").symlink_to(tmp_path / "disk")
    (project / "data").mkdir(parents=True)
    (project / "data/mine").symlink_to(tmp_path / "mine")
    (project / "own.py").write_text(CONFIG)
    monkeypatch.chdir(project)
    monkeypatch.delenv("DETECTOR_CACHE", raising=False)
    return project


def data(*words: str) -> int:
    return command.main(["data", *words])


NAMES = st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=12)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(PATHS, st.integers(0, 10**12)))
def test_manifest_reads_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.manifest"
    files = {name: Entry(size, SHA) for name, size in sizes.items()}
    manifests.save(path, files)
    assert manifests.load(path) == files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "that is none"),
        ("a: b\n", "found 'a: b'"),
        ("# data manifest 1 files=0 bytes=0 digest=x\n", "0 files that are not those"),
        (f"# data manifest 1 files=1\n{SHA} 1\n", "that is none"),
    ],
)
def test_damaged_manifest_says_what_to_type(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "x.manifest").write_text(text)
    with pytest.raises(DatasetError, match=rf"{expected}.*tasks data record --name x"):
        manifests.load(tmp_path / "x.manifest")


def test_manifest_is_the_same_wherever_the_data_lies(project: Path) -> None:
    assert data("record", "--name", "mine") == 0
    first = (project / "data/mine.manifest").read_text()
    (project / "data/mine").unlink()
    (project.parent / "disk").rename(project.parent / "moved")
    (project.parent / "mine/images").unlink()
    (project.parent / "mine").rename(project / "data/mine")
    (project / "data/mine/images").symlink_to(project.parent / "moved")
    os.utime(project / "data/mine/train.json", (1, 1))
    assert data("verify") == 0
    assert data("record", "--name", "mine") == 0
    assert (project / "data/mine.manifest").read_text() == first


def test_changed_missing_and_added_files_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data("record", "--name", "mine")
    disk = project.parent / "disk"
    (disk / "a.png").write_text("DISK/A.PNG")
    (disk / "b.png").unlink()
    for number in range(3):
        (disk / f"new{number}.png").write_text("new")
    capsys.readouterr()
    assert data("verify", "--name", "mine", "--show", "2") == 1
    said = capsys.readouterr().out
    assert "1 changed, 1 missing, 3 added" in said
    assert f"data/mine -> {project.parent / 'mine'}" in said
    assert "changed: images/a.png\n" in said
    assert "missing: images/b.png\n" in said
    assert "added: images/new0.png, images/new1.png and 1 more\n" in said


def test_entries_that_cannot_be_read_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data("record", "--name", "mine")
    (project.parent / "disk/gone.png").symlink_to("nowhere")
    (project.parent / "disk/loop").symlink_to("../mine")
    assert data("verify") == 1
    assert "images/gone.png is a broken link to nowhere" in capsys.readouterr().out
    assert data("record", "--name", "mine") == 1
    assert "found 2 entries that cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["verify"], "found no manifest"),
        (["verify", "--name", "mine"], "data record --name mine"),
        (["record"], "found no --name"),
        (["record", "--name", "other"], "found no folder"),
    ],
)
def test_wrong_use_says_what_to_do(
    project: Path, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data(*words) == 1
    assert expected in capsys.readouterr().err


def test_a_step_names_what_has_become_of_its_data(project: Path) -> None:
    before = Request("own.py").inputs("train")
    data("record", "--name", "mine")
    assert Request("own.py").inputs("train") == before
    (project.parent / "disk/sub/c.png").write_text("other")
    with pytest.raises(
        DatasetError, match=r"data/mine/images: found 1 changed, .* changed: sub/c\.png\. .*--name mine"
    ):
        Request("own.py").inputs("train")
    data("record", "--name", "mine")
    assert Request("own.py").inputs("train") != before


def test_a_changed_annotation_file_is_named_itself(project: Path) -> None:
    data("record", "--name", "mine")
    (project.parent / "mine/train.json").write_text("other")
    with pytest.raises(
        DatasetError, match=r"data/mine/train\.json: found 1 changed, .*changed: the file itself"
    ):
        Request("own.py").inputs("train")


def test_files_that_steps_make_are_not_part_of_known_data(project: Path) -> None:
    (project / "configs/sources").mkdir(parents=True)
    (project / "configs/sources/mine.yaml").write_text("dataset: mine\n")
    (project / "data/mine/annotations").mkdir()
    (project / "data/mine/annotations/train.json").write_text("{}")
    (project / "data/mine/source.json").write_text("{}")
    data("record", "--name", "mine")
    assert set(manifests.load(project / "data/mine.manifest")) == {
        "train.json", "images/a.png", "images/b.png", "images/sub/c.png"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "accepted"),
    [("added", True), ("changed", False), ("missing", False)],
)
def test_prepare_takes_more_files_but_does_not_hide_a_change(
    project: Path, change: str, accepted: bool
) -> None:
    request, said = DataRequest("mine"), []
    job = Job(key="prepare-1", log=said.append)
    prepare.record(job, request)
    outputs = {"data/mine.manifest": {"sha256": digests.sha256_file(request.manifest)}}
    write_json(receipt_path(job.key), Receipt("prepare", job.key, {}, outputs, None, "", 0.0).__dict__)
    path = project.parent / "disk" / ("new.png" if change == "added" else "a.png")
    path.unlink() if change == "missing" else path.write_text("other")
    if accepted:
        prepare.record(job, request)
        assert "added: images/new.png" in said[1]
    else:
        with pytest.raises(DatasetError, match=rf"{change}: images/a\.png"):
            prepare.record(job, request)
        prepare.record(Job(key="prepare-2", log=said.append), request)  # of another recipe or other code
        assert f"{change}: images/a.png" in said[1]


@pytest.mark.slow
def test_two_thousand_linked_files_are_read_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As benchmarks/manifest.py does with 100,000."""
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    store = project.parent / "disk" / "many"
    for number in range(2000):
        path = store / f"{number // 100:02}" / f"{number:04}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    read: list[Path] = []
    real = digests.sha256_file
    monkeypatch.setattr(digests, "sha256_file", lambda path: read.append(path) or real(path))
    assert data("record", "--name", "mine") == 0
    assert len(read) == 2004
    assert data("record", "--name", "mine") == 0
    assert data("verify") == 0
    assert len(read) == 2004
    (store / "07/0700.bin").write_text("007")
    assert data("verify") == 1
    assert "changed: images/many/07/0700.bin" in capsys.readouterr().out
    assert [path.name for path in read[2004:]] == ["0700.bin"]


def test_remembered_digests_survive_in_a_file(project: Path) -> None:
    data("record", "--name", "mine")
    assert DigestCache().path == Path(".cache/digests.db")
    assert DigestCache().path.stat().st_size > 0
