"""Linking: parts only, nothing of the user's replaced, and a record that is the same on every machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detector.data.download import link
from detector.errors import DatasetError


def make_store(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "file.txt").write_text(name)
    return root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store", "sample/leftImg8bit", "sample/gtFine").absolute()


def test_parts_are_linked_and_the_folder_is_real(store: Path, tmp_path: Path) -> None:
    links = link("sample", store, tmp_path / "data")
    assert links == [tmp_path / "data/sample/leftImg8bit", tmp_path / "data/sample/gtFine"]
    assert [p.readlink() for p in links] == [store / "sample/leftImg8bit", store / "sample/gtFine"]
    assert not (tmp_path / "data/sample").is_symlink()
    assert (tmp_path / "data/sample/gtFine/file.txt").read_text() == "sample/gtFine"


def test_linking_twice_changes_nothing(store: Path, tmp_path: Path) -> None:
    link("sample", store, tmp_path / "data")
    record = tmp_path / "data/sample/source.json"
    before = record.stat().st_mtime_ns
    assert len(link("sample", store, tmp_path / "data")) == 2
    assert record.stat().st_mtime_ns == before


def test_record_says_what_is_linked_without_places(store: Path, tmp_path: Path) -> None:
    (store / "sample/source.json").write_text(
        json.dumps({"recipe": {"seed": 4}, "digest": "abc", "files": 2})
    )
    link("sample", store, tmp_path / "data")
    text = (tmp_path / "data/sample/source.json").read_text()
    record = json.loads(text)
    assert record["dataset"] == "sample"
    assert record["origin"] == {"recipe": {"seed": 4}, "digest": "abc"}
    assert (record["parts"]["gtFine"]["files"], record["parts"]["gtFine"]["bytes"]) == (1, 13)
    assert str(tmp_path) not in text


def test_record_changes_with_a_file(store: Path, tmp_path: Path) -> None:
    link("sample", store, tmp_path / "data")
    before = (tmp_path / "data/sample/source.json").read_text()
    (store / "sample/gtFine/more.txt").write_text("x")
    link("sample", store, tmp_path / "data")
    assert (tmp_path / "data/sample/source.json").read_text() != before


def test_optional_parts_are_linked_when_there(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", "coco/val2017", "coco/annotations")
    links = link("coco", store, tmp_path / "data")
    assert [p.name for p in links] == ["val2017", "source_annotations"]
    assert links[1].readlink() == store / "coco/annotations"


def test_data_set_that_is_not_in_the_store(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"found no leftImg8bit and no gtFine.*detector download\s+sample"):
        link("sample", tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_link_to_another_place_is_kept_and_named(store: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", "truth")
    (tmp_path / "data/sample").mkdir(parents=True)
    (tmp_path / "data/sample/gtFine").symlink_to(other / "truth")
    with pytest.raises(DatasetError, match=rf"gtFine: found a link to {other}/truth, expected one to"):
        link("sample", store, tmp_path / "data")
    assert (tmp_path / "data/sample/gtFine").readlink() == other / "truth"
    assert not (tmp_path / "data/sample/leftImg8bit").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_real_folder_or_file_is_kept_and_named(store: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "data/sample/gtFine"
    target.parent.mkdir(parents=True)
    target.mkdir() if kind == "folder" else target.write_text("mine")
    with pytest.raises(DatasetError, match=f"gtFine: found a {kind}, expected a link"):
        link("sample", store, tmp_path / "data")
    assert target.exists()


def test_broken_link_is_named(store: Path, tmp_path: Path) -> None:
    (tmp_path / "data/sample").mkdir(parents=True)
    (tmp_path / "data/sample/gtFine").symlink_to(tmp_path / "gone")
    with pytest.raises(DatasetError, match=rf"gtFine: found a broken link to {tmp_path}/gone"):
        link("sample", store, tmp_path / "data")


def test_linked_data_folder_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/sample").symlink_to(store / "sample")
    with pytest.raises(DatasetError, match="expected a folder whose parts are links"):
        link("sample", store, tmp_path / "data")


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Did you mean 'sample'"):
        link("samples", tmp_path)


def test_all_places_that_are_taken_are_named_at_once(store: Path, tmp_path: Path) -> None:
    (tmp_path / "data/sample/leftImg8bit").mkdir(parents=True)
    (tmp_path / "data/sample/gtFine").symlink_to(tmp_path / "gone")
    with pytest.raises(DatasetError) as caught:
        link("sample", store, tmp_path / "data")
    assert "leftImg8bit: found a folder" in str(caught.value)
    assert "gtFine: found a broken link" in str(caught.value)


def test_broken_link_of_an_optional_part_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", "coco/val2017", "coco/annotations")
    (tmp_path / "data/coco").mkdir(parents=True)
    (tmp_path / "data/coco/train2017").symlink_to(tmp_path / "unplugged/train2017")
    with pytest.raises(DatasetError, match=rf"train2017: found a broken link to {tmp_path}/unplugged"):
        link("coco", store, tmp_path / "data")
    assert not (tmp_path / "data/coco/val2017").exists()


def test_store_that_is_gone_names_the_links_that_led_there(store: Path, tmp_path: Path) -> None:
    link("sample", store, tmp_path / "data")
    store.rename(tmp_path / "moved")
    with pytest.raises(DatasetError, match=r"found no leftImg8bit.*Broken links: .*data/sample/gtFine \(to "):
        link("sample", store, tmp_path / "data")


def test_voc_is_linked_where_configs_look(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", "voc/VOCdevkit/VOC2007")
    links = link("voc", store, tmp_path / "data")
    assert links == [tmp_path / "data/voc/VOCdevkit", tmp_path / "data/VOCdevkit"]
    assert links[1].readlink() == store / "voc/VOCdevkit"
    assert len(link("voc", store, tmp_path / "data")) == 2


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_devkit_of_the_user_beside_is_left_alone(tmp_path: Path, kind: str) -> None:
    store = make_store(tmp_path / "store", "voc/VOCdevkit/VOC2007")
    mine = make_store(tmp_path, "data/mine") / "data/mine"
    (tmp_path / "data/VOCdevkit").symlink_to(mine) if kind == "link" else mine.rename(
        tmp_path / "data/VOCdevkit"
    )
    assert link("voc", store, tmp_path / "data") == [tmp_path / "data/voc/VOCdevkit"]
    assert (tmp_path / "data/VOCdevkit/file.txt").read_text() == "data/mine"


def test_lvis_without_cocos_images_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", "lvis_v1/annotations")
    with pytest.raises(DatasetError, match="found no coco/train2017 and no coco/val2017"):
        link("lvis_v1", store, tmp_path / "data")
