"""Every kind of finding on a tree that has one of each, and nothing on a sound one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data.scan.contents import read_coco_contents
from detector.data.scan.copies import _pairs
from detector.data.scan.findings import KINDS, Finding, count_by_kind
from detector.data.scan.run import Scan, scan
from tests.unit.data_scan.trees import contents_of


def of_kind(found: Scan, kind: str) -> list[Finding]:
    return [finding for finding in found.findings if finding.kind == kind]


COUNTS = {
    "missing-file": 1, "unreadable-image": 3, "damaged-image": 1, "wrong-size": 1, "turned-by-exif": 2,
    "leakage": 1, "near-leakage": 1, "duplicate-file": 1, "near-duplicate": 1, "malformed-entry": 3,
    "repeated-id": 1, "repeated-name": 1, "id-zero": 1, "unknown-image": 1, "unknown-category": 1,
    "degenerate-box": 4, "tiny-box": 1, "box-outside-image": 1, "box-over-border": 1, "bad-mask": 2,
    "box-not-of-mask": 1, "duplicate-annotation": 1, "unannotated-image": 1, "class-without-objects": 1,
}  # fmt: skip


def test_every_kind_is_found_as_often_as_it_is_there(found: Scan) -> None:
    assert count_by_kind(found.findings) == COUNTS
    assert set(COUNTS) == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "subject", "words"),
    [
        ("missing-file", "missing.jpg", "No such file"),
        ("unreadable-image", "cut.jpg", "truncated"),
        ("unreadable-image", "text.jpg", "26 bytes that start with 3c 68 74 6d, which is no image format"),
        ("unreadable-image", "empty.jpg", "the file is empty"),
        ("damaged-image", "broken.jpg", "Corrupt JPEG data"),
        ("wrong-size", "wrong_size.jpg", "stated 80 x 61, the file has 80 x 60"),
        ("turned-by-exif", "turned.jpg", "orientation 6; training sees 60 x 80"),
        ("turned-by-exif", "half.jpg", "orientation 3"),
        ("leakage", "leak.jpg", "the same content as leaked.jpg of val"),
        ("near-leakage", "good2.jpg", "like alike.png of val"),
        ("duplicate-file", "twice.jpg", "the same content as once.jpg"),
        ("near-duplicate", "near.png", "like good0.jpg"),
        ("malformed-entry", "no_width.jpg", "found width None and height 60"),
        ("malformed-entry", "annotations[", "found 'not a dict'; expected a dict"),
        ("malformed-entry", "images[", "expected a dict with id and file_name"),
        ("repeated-id", "boxes.jpg", "annotation id 1 is used before, in good0.jpg"),
        ("repeated-name", "good0.jpg", "listed 2 times"),
        ("id-zero", "boxes.jpg", "annotation id 0"),
        ("unknown-image", "image_id 999", "no image has this id"),
        ("unknown-category", "boxes.jpg", "category_id 9; the file lists 1, 2"),
        ("degenerate-box", "boxes.jpg", "[5, 5, 0, 10]; expected width and height above 0"),
        ("degenerate-box", "boxes.jpg", "[5, 5, 10, -3]"),
        ("degenerate-box", "boxes.jpg", "[nan, 1, 5, 5]; expected finite numbers"),
        ("degenerate-box", "boxes.jpg", "found bbox [1, 2, 3]; expected four numbers"),
        ("tiny-box", "boxes.jpg", "[5, 5, 0.5, 10]"),
        ("box-outside-image", "boxes.jpg", "[100, 5, 10, 10]; the image is 80 x 60"),
        ("box-over-border", "boxes.jpg", "[70, 5, 15, 10] by 5 pixels"),
        ("bad-mask", "boxes.jpg", "no polygon of at least three"),
        ("bad-mask", "boxes.jpg", "runs that cover 3 pixels, expected the image's 4800"),
        ("box-not-of-mask", "boxes.jpg", "[30, 30, 20, 20], its mask's [30, 30, 20, 10]: 10 px apart"),
        ("duplicate-annotation", "boxes.jpg", "cat [34, 34, 9, 9] is annotation"),
        ("unannotated-image", "nothing.jpg", "no annotation"),
        ("class-without-objects", "unicorn", "category 2 has no annotation"),
    ],
)
def test_a_finding_says_where_and_what(found: Scan, kind: str, subject: str, words: str) -> None:
    assert any(subject in f.subject and words in f.detail for f in of_kind(found, kind)), of_kind(found, kind)


def test_a_sound_data_set_has_no_findings(tree: Any) -> None:
    contents = read_coco_contents(tree.write(), tree.images)
    result = scan([contents], near=0)
    assert result.findings == []
    assert result.files == 3


def test_without_an_image_folder_no_file_is_missed(tree: Any) -> None:
    (tree.images / "0.jpg").unlink()
    assert scan([read_coco_contents(tree.write(), None)]).findings == []


def test_a_test_split_without_annotations_has_no_findings(tree: Any) -> None:
    tree.content["annotations"] = []
    assert scan([read_coco_contents(tree.write(), tree.images)]).findings == []


def test_exif_is_named_where_it_makes_the_size_wrong(tree: Any, tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 8
    with Image.open(tree.images / "1.jpg") as picture:
        picture.load()
        picture.save(tree.images / "1.jpg", exif=exif)
    result = scan([read_coco_contents(tree.write(), tree.images)])
    wrong = of_kind(result, "wrong-size")
    assert [f.subject for f in wrong] == ["1.jpg"]
    assert "stated 80 x 60, the file has 60 x 80 after EXIF has turned it (orientation 8)" in wrong[0].detail


def test_the_same_file_in_both_sets_is_a_leak(tree: Any) -> None:
    path = tree.write()
    sets = [read_coco_contents(path, tree.images, title=title) for title in ("train", "val")]
    leaks = of_kind(scan(sets), "leakage")
    assert len(leaks) == 3
    assert leaks[0].detail == "the same file as 0.jpg of val"


def test_the_result_does_not_depend_on_the_number_of_processes(found: Scan, spoilt: Any) -> None:
    assert scan(contents_of(*spoilt), nproc=2, near=4).findings == found.findings


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_pairs_of_hashes_are_those_of_a_plain_comparison(values: list[int], bits: int) -> None:
    n = len(values)
    apart = {(i, j): (values[i] ^ values[j]).bit_count() for i in range(n) for j in range(i + 1, n)}
    expected = {(i, j, d) for (i, j), d in apart.items() if d <= bits}
    assert set(_pairs(np.array(values, np.uint64), bits)) == expected
