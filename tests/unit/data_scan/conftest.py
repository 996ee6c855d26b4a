"""Data sets to scan: a sound one, and a pair with one of every mistake."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from detector.data.scan.run import Scan, scan
from tests.unit.data_scan.trees import (
    Tree,
    contents_of,
    jpeg,
    pixels,
    spoil_annotations,
    spoil_entries,
    spoil_files,
)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Three sound images with an object each."""
    made = Tree(tmp_path)
    for i in range(3):
        made.box(made.image(f"{i}.jpg"), (10.0 + i, 10.0, 20.0, 30.0))
    return made


@pytest.fixture(scope="session")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, Tree]:
    """A training and a validation set with at least one of every mistake."""
    train, val = Tree(tmp_path_factory.mktemp("train")), Tree(tmp_path_factory.mktemp("val"))
    train.content["categories"] += [{"id": 2, "name": "unicorn"}]
    for i in range(3):
        train.box(train.image(f"good{i}.jpg"))
    spoil_files(train)
    spoil_annotations(train)
    spoil_entries(train)
    val.box(val.image("other.jpg", seed=500))
    val.box(val.image("leaked.jpg", jpeg(101)))
    smaller = cv2.resize(pixels(3), (40, 30), interpolation=cv2.INTER_AREA)
    val.box(
        val.image("alike.png", cv2.imencode(".png", smaller)[1].tobytes(), height=30, width=40),
        (5.0, 5.0, 20.0, 20.0),
    )
    return train, val


@pytest.fixture(scope="session")
def found(spoilt: tuple[Tree, Tree]) -> Scan:
    """The scan of the spoilt pair; the second is compared with only."""
    return scan(contents_of(*spoilt), near=4)
