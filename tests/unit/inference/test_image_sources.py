"""Sources: what each kind gives, reading ahead, videos in and out."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from detector.errors import DatasetError, MachineError
from detector.inference import open_source
from detector.inference.read_ahead import read_ahead
from detector.inference.sources import Frame
from detector.inference.video import Video, VideoWriter
from tests.unit.inference.tiny_models import image, write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.png, b.jpg, notes.txt, below/c.png."""
    (tmp_path / "below").mkdir()
    for name in ("b.jpg", "a.png", "below/c.png"):
        cv2.imwrite(str(tmp_path / name), image(8, 6))
    (tmp_path / "notes.txt").write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("", ["a", "b"]), ("a.png", ["a"]), ("*.png", ["a"]), ("**/*.png", ["a", "c"]), ("[ab].*", ["a", "b"])],
    ids=["folder", "file", "pattern", "below", "letters"],
)
def test_files_folders_and_patterns(folder: Path, pattern: str, names: list[str]) -> None:
    source: Any = open_source(str(folder / pattern) if pattern else folder)
    assert [frame.name for frame in source] == names
    assert len(source) == len(names)
    assert source[0].image().shape == (6, 8, 3)


def test_a_list_on_standard_input(folder: Path) -> None:
    lines = io.StringIO(f"{folder / 'b.jpg'}\n\n{folder / 'a.png'}\n")
    assert [frame.name for frame in open_source("-", stdin=lines)] == ["b", "a"]


def test_images_in_memory(folder: Path) -> None:
    items = [image(8, 6), Image.fromarray(image(8, 6)), folder / "a.png"]
    frames = list(open_source(items))
    assert [frame.name for frame in frames] == ["frame_000000", "frame_000001", "a"]
    np.testing.assert_array_equal(frames[0].image(), items[0])
    assert [f.pixels is None for f in open_source(image(8, 6))] == [False]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("nowhere", ["nowhere", "no such file or folder"]),
        ("a.pmg", ["a.pmg", "Did you mean", "a.png"]),
        ("*.gif", ["fits no image"]),
        ("bare", ["no image in this folder", "**"]),
        ("https://x.org/a.jpg", ["address", "Download"]),
        ("missing.mp4", ["no such file", "video file"]),
    ],
    ids=str,
)
def test_what_is_not_there_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: str, named: list[str]
) -> None:
    (folder / "bare").mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(DatasetError) as caught:
        open_source(given)
    assert [part for part in named if part not in str(caught.value)] == []


@pytest.mark.parametrize(("text", "named"), [("", "found no line"), ("x.jpg\n", "1 of 1 lines name no file")])
def test_a_bad_list_on_standard_input_is_named(text: str, named: str) -> None:
    with pytest.raises(DatasetError, match=named):
        open_source("-", stdin=io.StringIO(text))


def test_a_video_gives_its_frames_speed_and_size(tmp_path: Path) -> None:
    video = open_source(write_video(tmp_path / "v.mp4", 5, size=(96, 64), fps=12.5))
    assert isinstance(video, Video)
    assert (video.fps, video.size, video.total) == (12.5, (96, 64), 5)
    frames = list(video)
    assert [frame.name for frame in frames] == [f"frame_{i:06d}" for i in range(5)]
    assert frames[4].image().shape == (64, 96, 3)


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with pytest.raises(DatasetError, match="no frame that OpenCV decodes"):
        Video(tmp_path / "v.mp4")


def test_a_missing_camera_is_named() -> None:
    with pytest.raises(MachineError, match="camera 97"):
        open_source(97)


def test_a_video_that_breaks_off_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "v.avi"
    with VideoWriter(path, size=(64, 48), fps=10) as writer:
        for seed in range(30):
            writer.write(image(64, 48, seed))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = Video(path)
    video.total = 30
    count = len(list(video))
    assert 0 < count < 30
    assert f"{count} of 30 frames" in caplog.text


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".mov"])
def test_what_is_written_can_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"v{suffix}"
    flat = [np.full((48, 64, 3), value, np.uint8) for value in (40, 120, 200)]
    with VideoWriter(path, size=(64, 48), fps=15) as writer:
        for frame in flat:
            writer.write(frame)
        assert not path.exists()
    video = Video(path)
    assert (video.fps, video.size) == (15, (64, 48))
    assert [round(float(f.image().mean()), -1) for f in video] == [40, 120, 200]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    for path, named in (("v.gif", "'.gif'"), ("file/v.mp4", "cannot be written"), ("folder.mp4", "a folder")):
        with pytest.raises(DatasetError, match=named):
            VideoWriter(tmp_path / path, size=(64, 48), fps=10)
    writer = VideoWriter(tmp_path / "v.mp4", size=(64, 48), fps=10)
    with pytest.raises(DatasetError, match="frame 0 is 48x64, expected 64x48"):
        writer.write(image(48, 64))
    writer.close()
    assert not (tmp_path / "v.mp4").exists()


def counted(made: list[int], count: int = 10) -> Iterator[int]:
    for i in range(count):
        made.append(i)
        yield i


def test_items_are_made_ahead_but_not_too_many() -> None:
    made: list[int] = []
    items = read_ahead(counted(made), depth=3)
    assert next(items) == 0
    time.sleep(0.1)
    assert len(made) == 5  # one is used, three wait, the next one is in the thread's hand
    assert list(items) == list(range(1, 10))


def test_the_thread_ends_when_the_items_are_no_longer_wanted() -> None:
    items = read_ahead(counted([], 1000), depth=2)
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "read ahead"]


def test_an_error_of_the_thread_is_raised_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise DatasetError("here")

    items = read_ahead(broken(), depth=4)
    assert next(items) == 1
    with pytest.raises(DatasetError, match="here"):
        next(items)


def test_of_a_live_source_the_newest_is_kept() -> None:
    items = read_ahead(counted([], 50), depth=1, newest=True)
    first = next(items)
    time.sleep(0.1)
    seen = [first, *items]
    assert seen[-1] == 49
    assert len(seen) <= 2


def test_a_frame_reads_its_file(folder: Path) -> None:
    assert Frame(name="a", path=folder / "a.png").image().shape == (6, 8, 3)
