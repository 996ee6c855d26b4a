"""Every format carries the stamp, and still reads as before."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.engine.scoring import write_metrics
from detector.evaluation.results import load_results, save_results
from detector.evaluation.submissions.package import write_zip
from detector.lineage import carriers, reading, stamp
from detector.lineage.stamp import LineageError
from detector.visualize import write_image

FACTS: dict[str, Any] = {
    "command": ["detector", "test", "ü"],
    "code": {"commit": "c" * 40, "dirty": False, "of": "package"},
    "config": {"name": "c", "sha256": "f" * 64, "text": "a = 1\n"},
    "versions": {"torch": "2"},
}
PIXELS = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
BOXES = [[np.array([[1, 2, 3, 4, 0.5]], np.float32), np.zeros((0, 5), np.float32)]]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


def encoded(kind: str) -> bytes:
    return bytes(cv2.imencode(kind, PIXELS)[1].tobytes())


@pytest.mark.parametrize("kind", [".png", ".jpg"])
def test_a_picture_carries_it_and_keeps_its_pixels(tmp_path: Path, kind: str) -> None:
    plain, marked = tmp_path / f"a{kind}", tmp_path / f"b{kind}"
    write_image(plain, PIXELS)
    with stamp.collecting(**FACTS):
        write_image(marked, PIXELS)
    assert plain.read_bytes() == encoded(kind)
    assert np.array_equal(cv2.imread(str(plain)), cv2.imread(str(marked)))
    found = reading.read_stamp(marked)
    assert found["code"] == FACTS["code"]
    assert found["command"] == FACTS["command"]
    assert found["config"] == {"name": "c", "sha256": "f" * 64}  # no text: pictures are many and small
    with pytest.raises(LineageError, match="found no lineage in it"):
        reading.read_stamp(plain)
    with Image.open(marked) as image:  # another reader finds it where the format keeps such things
        image.load()
        text = image.info["detector.lineage"] if kind == ".png" else image.info["comment"].decode()
    assert text.endswith(json.dumps(found, separators=(",", ":")))


@pytest.mark.parametrize("kind", [".bmp", ".webp"])
def test_a_format_without_a_place_gets_a_file_beside(tmp_path: Path, kind: str) -> None:
    with stamp.collecting(**FACTS):
        write_image(tmp_path / f"a{kind}", PIXELS)
    assert (tmp_path / f"a{kind}.lineage.json").is_file()
    assert reading.read_stamp(tmp_path / f"a{kind}")["config"] == FACTS["config"]


def test_a_jpeg_has_no_room_for_a_long_one(tmp_path: Path) -> None:
    with stamp.collecting(**FACTS, options={"long": "x" * 70_000}):
        write_image(tmp_path / "a.jpg", PIXELS)
    assert (tmp_path / "a.jpg").read_bytes() == encoded(".jpg")
    assert len(reading.read_stamp(tmp_path / "a.jpg")["options"]["long"]) == 70_000


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=9), values, max_size=4))
def test_any_stamp_comes_back(facts: dict[str, Any]) -> None:
    text = carriers.dumped({**facts, "stamp": 1})
    png, jpeg = (
        carriers.with_png_text(encoded(".png"), text),
        carriers.with_jpeg_comment(encoded(".jpg"), text),
    )
    assert carriers.parsed(carriers.png_text(png)) == {**facts, "stamp": 1}
    assert carriers.parsed(carriers.jpeg_comment(jpeg)) == {**facts, "stamp": 1}
    with Image.open(io.BytesIO(png)) as image:
        assert np.array_equal(np.asarray(image)[..., ::-1], PIXELS)


def test_results_stay_the_plain_list_that_others_read(tmp_path: Path) -> None:
    path, bare = tmp_path / "r.pkl", tmp_path / "bare.pkl"
    save_results(bare, BOXES)
    with stamp.collecting(**FACTS):
        save_results(path, BOXES)
    with path.open("rb") as stream:  # what mmcv.load and mmengine.load do
        found = pickle.load(stream)
    assert type(found) is list
    assert pickle.loads(path.read_bytes())[0][0].tolist() == BOXES[0][0].tolist()
    assert load_results(path)[0][0].tolist() == found[0][0].tolist() == BOXES[0][0].tolist()
    assert carriers.split_pickle(path.read_bytes())[0] == bare.read_bytes()
    assert reading.read_stamp(path)["config"] == FACTS["config"]


@pytest.mark.parametrize(
    "tail", [b"", carriers.TRAILER, b"\xff" * 8 + carriers.TRAILER], ids=["none", "cut", "long"]
)
def test_a_damaged_trailer_is_none(tail: bytes) -> None:
    assert carriers.split_pickle(b"abc" + tail)[1] is None


def test_a_zip_carries_it_in_its_comment(tmp_path: Path) -> None:
    entries = [("a.json", lambda: b"[]")]
    with stamp.collecting(**FACTS):
        path = write_zip(tmp_path / "a.zip", entries)
        assert path.read_bytes() == write_zip(tmp_path / "b.zip", entries).read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a.json"]
    assert reading.read_stamp(path)["config"] == FACTS["config"]
    assert not zipfile.ZipFile(write_zip(tmp_path / "c.zip", entries)).comment


def test_a_zip_leaves_out_a_text_that_does_not_fit(tmp_path: Path) -> None:
    with stamp.collecting(**{**FACTS, "config": {"name": "c", "text": "x" * 70_000}}):
        path = write_zip(tmp_path / "a.zip", [("a.json", lambda: b"[]")])
    assert reading.read_stamp(path)["config"] == {"name": "c"}


def test_metrics_carry_it_where_dvc_shows_no_texts(tmp_path: Path) -> None:
    with stamp.collecting(**FACTS):
        path = write_metrics(tmp_path, "c.py", {"bbox_mAP": 0.5})
    document = json.loads(path.read_text())
    assert document["metric"] == {"bbox_mAP": 0.5}
    assert isinstance(document["lineage"], list)  # DVC passes over lists
    assert reading.read_stamp(path)["code"] == FACTS["code"]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.json", b"[]", "ask its zip"),
        ("a.json", b"{", "found no lineage"),
        ("a.zip", b"no zip", "found no lineage"),
        ("a.txt", b"", "found no lineage"),
        ("", b"", "found no file"),
    ],
    ids=["list", "broken", "no zip", "text", "nothing"],
)
def test_a_file_without_one_is_told_so(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LineageError, match=named):
        reading.read_stamp(tmp_path / (name or "none.pth"))
