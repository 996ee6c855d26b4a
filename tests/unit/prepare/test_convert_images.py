"""A folder of images to a COCO file without annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.data.converters.images_to_coco import convert
from detector.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    cv2.imwrite(str(root / "b.png"), np.zeros((4, 6, 3), np.uint8))
    cv2.imwrite(str(root / "deep" / "a.JPG"), np.zeros((5, 7, 3), np.uint8))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return root


def run(folder: Path, **options: Any) -> dict[str, Any]:
    (path,) = convert(folder, folder.parent / "classes.txt", "test.json", **options)
    assert path == folder.parent / "annotations" / "test.json"
    return json.loads(path.read_text())


def test_document_by_hand(folder: Path) -> None:
    document = run(folder)
    assert document["images"] == [
        {"id": 1, "file_name": f"{folder}/b.png", "width": 6, "height": 4},
        {"id": 2, "file_name": f"{folder}/deep/a.JPG", "width": 7, "height": 5},
    ]
    assert [(c["id"], c["name"]) for c in document["categories"]] == [(0, "cat"), (1, "dog")]
    assert (document["annotations"], document["type"]) == ([], "instance")


@pytest.mark.parametrize("ending", ["jpg", ".JPG"])
def test_excluded_endings(folder: Path, ending: str) -> None:
    assert [Path(i["file_name"]).name for i in run(folder, exclude_extensions=[ending])["images"]] == [
        "b.png"
    ]


def test_file_that_is_no_image(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(DatasetError, match=r"notes\.txt cannot be read as an image.*--exclude-extensions"):
        run(folder)


def test_nothing_left(folder: Path) -> None:
    with pytest.raises(DatasetError, match="found no image"):
        run(folder, exclude_extensions=["png", "jpg"])


def test_no_class(folder: Path) -> None:
    (folder.parent / "classes.txt").write_text("\n")
    with pytest.raises(DatasetError, match="found no name"):
        run(folder)


def test_output_must_be_json(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"'test\.txt', expected a name that ends in json"):
        convert(folder, folder.parent / "classes.txt", "test.txt")
