"""What a scan reads: COCO files, VOC folders and configs; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detector.data.scan import sources
from detector.data.scan.run import scan
from detector.errors import DatasetError
from tests.unit.data_scan.trees import Tree, jpeg, pixels

OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
    "<ymax>{y2}</ymax></bndbox></object>"
)


def voc(
    root: Path, lists: dict[str, list[str]], objects: dict[str, list[tuple[str, int, int, int, int]]]
) -> Path:
    """A VOC folder; an image's pixels follow from the last character of its name."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for split, stems in lists.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            (root / "JPEGImages" / f"{stem}.jpg").write_bytes(jpeg(ord(stem[-1])))
            nodes = "".join(
                OBJECT.format(name=n, x1=x1, y1=y1, x2=x2, y2=y2)
                for n, x1, y1, x2, y2 in objects.get(stem, [])
            )
            xml = f"<annotation><size><width>80</width><height>60</height></size>{nodes}</annotation>"
            (root / "Annotations" / f"{stem}.xml").write_text(xml)
    return root


def test_voc_lists_are_data_sets_and_leaks_between_them_are_found(tmp_path: Path) -> None:
    objects = {stem: [("cell", 11, 11, 31, 41)] for stem in ("a", "b", "xa", "c")}
    root = voc(
        tmp_path / "v",
        {"train": ["a", "b"], "val": ["xa"], "trainval": ["a", "b", "xa"], "test": ["c"]},
        objects,
    )
    sets = sources.contents_of_path(root)
    assert [c.title for c in sets] == ["train", "val", "test"]
    assert sets[0].boxes.tolist() == [[10, 10, 20, 30]] * 2
    found = scan(sets).findings
    assert [(f.kind, f.subject, f.detail) for f in found] == [
        ("leakage", "a.jpg", "the same content as xa.jpg of val")
    ]


def test_mistakes_of_voc_files_are_findings(tmp_path: Path) -> None:
    objects = {"a": [("cell", 31, 11, 11, 41), ("cell", 5, 5, 5, 9), ("cell", 1, 1, 9, 9)], "b": []}
    root = voc(tmp_path / "v", {"train": ["a", "b", "d", "a"]}, objects)
    (root / "JPEGImages" / "d.jpg").unlink()
    (root / "Annotations" / "b.xml").write_text("<annotation><size>")
    found = {(f.kind, f.subject) for f in scan(sources.contents_of_path(root)).findings}
    assert found == {
        ("degenerate-box", "a.jpg"), ("missing-file", "d.jpg"), ("malformed-entry", "b.jpg"),
        ("repeated-name", "a.jpg"), ("unannotated-image", "b.jpg"), ("unannotated-image", "d.jpg"),
    }  # fmt: skip


def test_a_config_names_its_data_sets_through_wrappers(tmp_path: Path) -> None:
    made = {}
    for name in ("one", "two"):
        tree = Tree(tmp_path / name)
        tree.box(tree.image("a.jpg"))
        made[name] = {"ann_file": "train.json", "data_root": str(tree.root), "img_prefix": "images"}
        tree.write()
    inner = {"type": "RepeatDataset", "times": 2, "dataset": {"type": "CocoDataset", **made["one"]}}
    data = {
        "train": {"type": "ConcatDataset", "datasets": [inner, made["two"]]},
        "val": made["two"],
        "test": [made["one"]],
    }
    sets = sources.contents_of_config(data)
    assert [c.title for c in sets] == ["train", "train 2"]
    assert [c.images_dir for c in sets] == [tmp_path / "one" / "images", tmp_path / "two" / "images"]


def test_a_config_of_voc_data_reads_its_list(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOC2007", {"trainval": ["a"]}, {"a": [("cell", 1, 1, 9, 9)]})
    section = {
        "type": "VOCDataset",
        "ann_file": str(root / "ImageSets/Main/trainval.txt"),
        "img_prefix": str(root),
    }
    (contents,) = sources.contents_of_config({"train": section})
    assert (contents.title, contents.names, contents.categories) == ("train", ["a.jpg"], {1: "cell"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ('{"annotations": []}', "found no list 'images' with entries (keys: 'annotations')"),
        ('{"images": []}', "found no list 'images' with entries"),
    ],
)
def test_a_file_that_is_no_data_set_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DatasetError) as raised:
        sources.contents_of_path(tmp_path / "a.json")
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"nproc": 0}, "--nproc: found 0; expected at least 1"),
        ({"near": 60}, "--near: found 60; expected 0 to 32"),
        ({"data": "folder", "images": ["x"]}, "--images: folder names its image folders itself"),
        ({"images": ["x", "y"]}, "--images: found 2 folders for 1 annotation files"),
        ({"against": "config_name"}, "--against config_name: found neither a folder nor a .json file"),
    ],
    ids=str,
)
def test_contradicting_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    given = {"data": "a.json", "images": [], "against": None, "nproc": 1, "near": None, **arguments}
    with pytest.raises(DatasetError) as raised:
        sources.check_request(given.pop("data"), given.pop("images"), given.pop("against"), **given)
    assert words in str(raised.value)


def test_comparing_needs_the_files(tree: Tree) -> None:
    with pytest.raises(DatasetError, match="--against: found no --images"):
        sources.compared_contents(str(tree.write()), [], taken=set())


def test_a_missing_image_folder_is_told_at_once(tree: Tree) -> None:
    with pytest.raises(DatasetError, match="found no such folder; expected the one with the images of"):
        sources.contents_of_path(tree.write(), tree.root / "nowhere")


def test_wrong_values_of_any_kind_do_not_stop_the_reading(tree: Tree) -> None:
    tree.content["categories"] += [
        {"id": "x", "name": "dog"},
        {"id": 1, "name": "twice"},
        {"id": 3, "name": "cat"},
        7,
    ]
    tree.content["annotations"] += [
        {"id": None, "image_id": [1], "bbox": None},
        {"image_id": 1, "category_id": "1"},
    ]
    tree.content["images"] += [None, {"id": 1, "file_name": "again.jpg", "height": 1.5, "width": True}]
    path = tree.root / "odd.json"
    path.write_text(json.dumps(tree.content))
    contents = scan(sources.contents_of_path(path)).findings
    kinds = [f.kind for f in contents]
    assert kinds.count("malformed-entry") == 6
    assert kinds.count("repeated-id") == 2
    assert kinds.count("unknown-image") == 1
    assert kinds.count("unknown-category") == 1
    assert kinds.count("degenerate-box") == 1


def test_pictures_of_the_tests_differ() -> None:
    assert abs(pixels(1).astype(int) - pixels(2)).mean() > 10
