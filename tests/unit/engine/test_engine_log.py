"""The spool, the text log and the progress output."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from detector.engine.log import TrainLog, Window
from detector.progress import Progress, track


def test_window_means_are_weighted_by_images_and_keep_their_order() -> None:
    window = Window()
    window.add({"data_time": 0.5})
    window.add({"loss_cls": 1.0, "loss": 3.0}, weight=4)
    window.add({"time": 2.0})
    window.add({"data_time": 0.1})
    window.add({"loss_cls": 4.0, "loss": 6.0}, weight=2)
    window.add({"time": 1.0})
    assert window.means() == pytest.approx({"data_time": 0.3, "loss_cls": 2.0, "loss": 4.0, "time": 1.5})
    assert list(window.means()) == ["data_time", "loss_cls", "loss", "time"]


def test_window_survives_a_checkpoint() -> None:
    window, other = Window(), Window()
    window.add({"loss": 1.0}, weight=3)
    other.restore(json.loads(json.dumps(window.state())))
    other.add({"loss": 5.0}, weight=1)
    assert other.means() == {"loss": 2.0}


def test_spool_has_the_reference_fields(tmp_path: Path) -> None:
    shown: list[str] = []
    log = TrainLog(tmp_path, "20260101_000000", show=shown.append)
    log.meta({"seed": 0, "config": "a = 1\n"})
    head = {"mode": "train", "epoch": 1, "iter": 10, "lr": 0.000079249}
    log.train(head, {"data_time": 0.2137612, "loss": 2.1753211, "time": 1.0}, eta_s=3661.5, total="52")
    log.val(
        {"mode": "val", "epoch": 1, "iter": 87, "lr": 0.0005},
        {"bbox_mAP": 0.4084, "bbox_mAP_copypaste": "0.4084 0.8"},
    )
    lines = [json.loads(line) for line in (tmp_path / "20260101_000000.log.json").read_text().splitlines()]
    assert lines[0] == {"seed": 0, "config": "a = 1\n"}
    assert lines[1] == {
        "mode": "train",
        "epoch": 1,
        "iter": 10,
        "lr": 8e-05,
        "data_time": 0.21376,
        "loss": 2.17532,
        "time": 1.0,
    }
    assert list(lines[2]) == ["mode", "epoch", "iter", "lr", "bbox_mAP", "bbox_mAP_copypaste"]
    assert (
        "Epoch [1][10/52]\tlr: 7.925e-05, eta: 1:01:01, time: 1.000, data_time: 0.214, loss: 2.1753"
        in shown[0]
    )
    assert shown[0] in (tmp_path / "20260101_000000.log").read_text()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, "x", enabled=False)
    log.meta({})
    log.text("hello")
    assert list(tmp_path.iterdir()) == []


def test_track_yields_everything_and_says_how_far_it_is() -> None:
    stream = io.StringIO()
    assert list(track(range(4), what="count", every_s=0, stream=stream)) == [0, 1, 2, 3]
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("count: 1/4 (25 %)")
    assert "left" in lines[0]
    assert lines[-1].startswith("count: done, 4/4 (100 %)")


def test_track_is_quiet_between_intervals() -> None:
    stream = io.StringIO()
    list(track(range(1000), what="count", every_s=60, stream=stream))
    assert len(stream.getvalue().splitlines()) == 1


def test_progress_as_a_callback_in_bytes() -> None:
    stream = io.StringIO()
    progress = Progress(None, "fetch", unit="B", every_s=0, stream=stream)
    progress(1_500_000, 3_000_000)
    progress.close()
    assert stream.getvalue().splitlines()[0].startswith("fetch: 1.5/3.0 MB (50 %)")


def test_speed_leaves_out_what_a_resumed_run_had_done() -> None:
    progress = Progress(100, "train", stream=io.StringIO())
    progress.start_at(90)
    assert progress.eta_s is None
    progress.advance(5)
    assert progress.eta_s is not None
    assert progress.eta_s < 1


def test_disabled_progress_is_silent() -> None:
    stream = io.StringIO()
    progress = Progress(3, "x", every_s=0, stream=stream, enabled=False)
    progress.advance()
    progress.note("line")
    progress.close()
    assert stream.getvalue() == ""
