"""The demos through the command line: files written, frames counted, no display needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector import cli
from detector.inference import demos, showing, window
from detector.inference.video import Video
from tests.unit.inference.tiny_models import image, write_model, write_video


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """config.py, model.pth, a.png, images/{a,b}.png and video.mp4, without a display."""
    write_model(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "images/a.png", "images/b.png"):
        cv2.imwrite(str(tmp_path / name), image(96, 64))
    write_video(tmp_path / "video.mp4", 5)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(window, "why_no_window", lambda: "there is no display")
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main([*arguments, "--device", "cpu", "--score-thr", "0"])


def test_an_image_is_drawn_into_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("image-demo", "a.png", "config.py", "model.pth", "--out-file", "out/x.png") == 0
    drawn = cv2.imread("out/x.png")
    assert drawn.shape == (64 * 7, 96 * 7, 3)  # small images are magnified
    printed = capsys.readouterr()
    assert printed.out == "out/x.png\n"
    assert "1 image" in printed.err


@pytest.mark.parametrize("option", [[], ["--async-test"], ["--palette", "voc"]], ids=str)
def test_images_are_drawn_into_a_folder(place: Path, option: list[str]) -> None:
    assert run("image-demo", "images", "config.py", "model.pth", "--out-file", "out", *option) == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["a.png", "b.png"]


def test_asynchronous_pictures_are_the_same(place: Path) -> None:
    run("image-demo", "images/*.png", "config.py", "model.pth", "--out-file", "one")
    run("image-demo", "images/*.png", "config.py", "model.pth", "--out-file", "two", "--async-test")
    for name in ("a.png", "b.png"):
        one, two = (cv2.imread(str(Path(folder, name))) for folder in ("one", "two"))
        assert np.array_equal(one, two)


def test_without_a_display_pictures_are_written(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run("image-demo", "a.png", "config.py", "model.pth") == 0
    assert "there is no display; the picture is in show/a.png" in caplog.text
    assert run("image-demo", "a.png", "config.py", "model.pth") == 0
    assert sorted(p.name for p in Path("show").iterdir()) == ["a.png", "a_2.png"]


def test_a_picture_never_replaces_its_image(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("a.png").read_bytes()
    assert run("image-demo", "a.png", "config.py", "model.pth", "--out-file", "a.png") == 1
    assert run("video-demo", "video.mp4", "config.py", "model.pth", "--out", "video.mp4") == 1
    assert capsys.readouterr().err.count("would replace the") == 2
    assert Path("a.png").read_bytes() == before


@pytest.mark.parametrize("batch", ["1", "2"])
def test_a_video_keeps_size_and_speed(place: Path, capsys: pytest.CaptureFixture[str], batch: str) -> None:
    arguments = ["video.mp4", "config.py", "model.pth", "--out", "out.mp4", "--batch-size", batch]
    assert run("video-demo", *arguments) == 0
    video = Video("out.mp4")
    assert (video.fps, video.size, len(list(video))) == (12.5, (96, 64), 5)
    assert "5 frames" in capsys.readouterr().err


def test_the_drawn_frames_are_the_detections_in_order(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame has its own brightness; what is drawn on it must be of that frame."""
    with demos.VideoWriter("grey.avi", size=(96, 64), fps=10) as writer:
        for value in (40, 90, 140, 190, 240):
            writer.write(np.full((64, 96, 3), value, np.uint8))
    seen: list[int] = []
    real = demos.draw_detections

    def spy(picture: Any, found: Any, *arguments: Any, **options: Any) -> Any:
        alone = demos.detect(model[0], [picture])[0]
        assert (alone.boxes - found.boxes).abs().max() < 1e-3
        seen.append(round(float(picture.mean()), -1))
        return real(picture, found, *arguments, **options)

    model = [demos.load("config.py", "model.pth", "cpu")]
    monkeypatch.setattr(demos, "draw_detections", spy)
    done = demos.video_demo("grey.avi", "config.py", "model.pth", out="x.mp4", device="cpu", batch_size=2)
    assert done.frames == 5
    assert seen == [40, 90, 140, 190, 240]


def test_without_a_display_a_shown_video_is_written(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run("video-demo", "video.mp4", "config.py", "model.pth", "--show") == 0
    assert "go to show/video.mp4" in caplog.text
    assert Video("show/video.mp4").total == 5


def test_a_key_ends_the_video_and_what_was_drawn_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    monkeypatch.setattr(window, "why_no_window", lambda: "")
    monkeypatch.setattr(window, "show", lambda *_, wait_ms: shown.append(wait_ms) or len(shown) < 3)
    done = demos.video_demo(
        "video.mp4", "config.py", "model.pth", device="cpu", out="out.mp4", show=True, wait_ms=7
    )
    assert (done.frames, done.stopped, shown) == (3, True, [7, 7, 7])
    assert Video("out.mp4").total == 3


def test_an_interrupt_keeps_what_was_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = demos.draw_detections

    def draw(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(demos, "draw_detections", draw)
    done = demos.video_demo("video.mp4", "config.py", "model.pth", device="cpu", out="out.mp4")
    assert (done.frames, done.stopped) == (2, True)
    assert Video("out.mp4").total == 2


def test_the_webcam_demo_runs_on_a_stream(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run("webcam-demo", "config.py", "model.pth", "--camera-id", "video.mp4", "--out", "w.mp4") == 0
    assert Video("w.mp4").total == 5
    assert "there is no display" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["image-demo", "none.png", "config.py", "model.pth"], ["none.png", "no such file"]),
        (["image-demo", "video.mp4", "config.py", "model.pth"], ["video-demo"]),
        (["image-demo", "a.png", "confg.py", "model.pth"], ["confg"]),
        (["image-demo", "a.png", "config.py", "none.pth"], ["none.pth"]),
        (["video-demo", "video.mp4", "config.py", "model.pth"], ["neither --out nor --show"]),
        (["video-demo", "a.txt", "config.py", "model.pth", "--show"], ["a.txt", "no such file"]),
        (["video-demo", "video.mp4", "config.py", "model.pth", "--out", "x.gif"], ["'.gif'", ".mp4"]),
        (["webcam-demo", "config.py", "model.pth", "--camera-id", "98"], ["camera 98", "--camera-id"]),
    ],
    ids=lambda v: " ".join(v),
)
def test_bad_arguments_are_named(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    assert run(*arguments) == 1
    printed = capsys.readouterr().err
    assert [part for part in named if part not in printed] == []
    assert "Traceback" not in printed


def test_a_display_that_cannot_be_used_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV would end the process; another one tries."""
    monkeypatch.setenv("DISPLAY", ":97")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert window.why_no_window.__wrapped__() != ""
    monkeypatch.delenv("DISPLAY")
    assert window.why_no_window.__wrapped__() == "there is no display (DISPLAY is not set)"


def test_pictures_for_no_window_have_free_names(place: Path) -> None:
    for _ in range(2):
        showing.show_picture(image(8, 8), name="x")
    assert sorted(p.name for p in Path("show").iterdir()) == ["x.png", "x_2.png"]
