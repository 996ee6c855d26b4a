"""COCO-format annotations from where they are linked to where configs read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.data.converters.coco_files import annotate_linked, convert
from detector.data.synthetic import Recipe, write_cityscapes
from detector.errors import DatasetError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """``data/coco`` as `link` leaves it."""
    store = tmp_path / "store/annotations"
    store.mkdir(parents=True)
    for name in ("b.json", "a.json"):
        (store / name).write_text(f' {{"images": [], "name": "{name}"}}\n')
    (store / "readme.txt").write_text("no annotations")
    linked = tmp_path / "data/coco"
    linked.mkdir(parents=True)
    (linked / "source_annotations").symlink_to(store)
    return linked


def test_files_are_copied_in_order_and_told(root: Path) -> None:
    notes: list[str] = []
    steps: list[tuple[int, int]] = []
    written = convert(root, note=notes.append, progress=lambda *both: steps.append(both))
    assert [path.name for path in written] == ["a.json", "b.json"]
    assert [path.is_symlink() for path in (root / "annotations", *written)] == [False] * 3
    assert written[0].read_bytes() == (root / "source_annotations/a.json").read_bytes()
    assert [note.split(":")[0] for note in notes] == ["a.json", "b.json"]
    assert steps == [(1, 2), (2, 2)]


def test_a_plain_folder_of_files_will_do(root: Path, tmp_path: Path) -> None:
    assert len(convert(tmp_path / "store/annotations", out_dir=tmp_path / "out")) == 2


def test_linking_keeps_what_is_there_and_converting_replaces_it(root: Path) -> None:
    (root / "annotations").mkdir()
    mine = root / "annotations/a.json"
    mine.write_text("mine")
    notes: list[str] = []
    annotate_linked(root, note=notes.append)
    assert mine.read_text() == "mine"
    assert f"already there, another file; `detector convert coco {root}` replaces it" in notes[0]
    convert(root)
    assert mine.read_text() != "mine"
    annotate_linked(root, note=notes.append)
    assert notes[-2] == f"a.json: already there -> {mine}"


@pytest.mark.parametrize("text", ['{"images": [', "[1]", "", "404 not found"])
def test_a_file_that_is_not_whole_is_named_and_nothing_is_copied(root: Path, text: str) -> None:
    (root / "source_annotations/b.json").write_text(text)
    with pytest.raises(DatasetError, match=r"source_annotations: 1 problem: b\.json is cut off"):
        convert(root)
    assert not (root / "annotations").exists()


def test_an_annotations_folder_that_leads_to_the_files_is_not_written_to(root: Path) -> None:
    (root / "annotations").symlink_to((root / "source_annotations").readlink())
    with pytest.raises(DatasetError, match="is the folder of the files itself"):
        convert(root)
    assert [path.name for path in annotate_linked(root)] == ["a.json", "b.json"]
    assert (root / "annotations").is_symlink()
    assert (root / "source_annotations/a.json").read_text()


@pytest.mark.parametrize("name", ["source_annotations", "elsewhere"])
def test_nothing_to_copy_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "source_annotations").symlink_to(tmp_path / "gone")
    place = tmp_path if name == "source_annotations" else tmp_path / "empty"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"found a broken link|found no \*\.json"):
        convert(place)


def test_other_data_sets_are_told_how_to_convert(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, recipe=Recipe(train=1, val=1, test=0, height=64, width=64))
    notes: list[str] = []
    assert annotate_linked(tmp_path, note=notes.append) == []
    assert notes == [
        f"annotations: type `detector convert cityscapes {tmp_path} --out-dir {tmp_path}/annotations`"
    ]
