"""The spool, the text log and the progress output."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import pytest

from detector.engine import log as log_module
from detector.engine.log import DataWaitAdvice, TrainLog, Window
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


def waiting(share: float) -> dict[str, float]:
    """Mean seconds of a step of one second that waits for data for a share of it."""
    return {"data": share, "forward": (1 - share) / 2, "backward": (1 - share) / 2}


@pytest.mark.parametrize(
    ("workers", "cores", "idle", "share", "said"),
    [
        (0, 8, 0.9, 0.6, "60% of the time steps wait for data (over 20%): raise data.workers_per"),
        (0, 8, 0.9, 0.6, "(found 0, 8 cores) to 2"),
        (2, 16, 0.9, 0.5, "raise data.workers_per_gpu (found 2, 16 cores) to 4"),
        (2, 16, 0.9, 0.21, "(found 2, 16 cores) to 3"),
        (2, 4, 0.9, 0.9, "(found 2, 4 cores) to 4"),
        (4, 4, 0.1, 0.5, "fills the 4 cores, which are busy: lower img_scale of Resize"),
        (4, 4, 0.8, 0.5, "80% of them is idle, so the storage is slow: move the images"),
    ],
    ids=["share", "no workers", "twice", "one more", "all cores", "busy", "idle"],
)
def test_advice_names_one_setting(workers: int, cores: int, idle: float, share: float, said: str) -> None:
    advice = DataWaitAdvice(workers, cores, idle=lambda: idle)
    assert advice.line(waiting(share)) is None  # the start of a run
    line = advice.line(waiting(share))
    assert line is not None
    assert said in line


def test_advice_is_given_once_and_again_when_it_changes() -> None:
    idle = iter([0.1, 0.1, 0.1, 0.9, 0.9, 0.1])
    advice = DataWaitAdvice(4, 4, idle=lambda: next(idle))
    said = [advice.line(waiting(share)) for share in (0.5, 0.5, 0.6, 0.5, 0.5, 0.1)]
    assert ["img_scale" in (line or "") for line in said] == [False, True, False, False, False, False]
    assert ["storage" in (line or "") for line in said] == [False, False, False, True, False, False]


@pytest.mark.parametrize("shares", [waiting(0.2), {}, {"data": 0.0}], ids=["at the limit", "empty", "zero"])
def test_no_advice_where_nothing_waits(shares: dict[str, float]) -> None:
    advice = DataWaitAdvice(0, 2)
    assert [advice.line(shares) for _ in range(3)] == [None] * 3


def test_lines_of_a_full_disk_are_kept_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    log = TrainLog(tmp_path, "run", show=shown.append)
    log.text("first")

    def full(path: Path, line: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("detector.engine.log._append", full)
        log.text("second")
        log.val({"mode": "val", "epoch": 1, "iter": 2, "lr": 0.1}, {"bbox_mAP": 0.5})
    log.text("third")
    words = [line.rpartition(" - ")[2] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert words[:2] == ["first", "second"]
    assert words[-1] == "third"
    assert json.loads((tmp_path / "run.log.json").read_text())["bbox_mAP"] == 0.5
    assert sum("No space left on device" in line for line in shown) == 1


def test_a_terminal_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    def full(message: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    TrainLog(tmp_path, "run", show=full).text("first")
    assert "first" in (tmp_path / "run.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_line_is_written_whole_or_not_at_all() -> None:
    with pytest.raises(OSError, match="No space left"):
        log_module._append(Path("/dev/full"), "x" * 100)
