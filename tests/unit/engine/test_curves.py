"""Pictures of training logs: what they show, where they are, and that they never end a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from detector.cli import main
from detector.engine.curves import _smoothed, _thinned, draw_run, write_curves
from detector.engine.log_analysis import Series, read_run

REFERENCE = Path(__file__).resolve().parents[2] / "golden" / "logs" / "faster_rcnn_r18_bccd.log.json"


@pytest.fixture
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, which is the current one; no display."""
    (tmp_path / "20260101_000000.log.json").write_bytes(REFERENCE.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return tmp_path


def labels(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_panels_show_losses_rate_and_metrics() -> None:
    figure = draw_run(read_run(REFERENCE))
    total, terms, rate, metrics = figure.axes
    assert total.get_title() == "total loss, last 0.7179"
    assert list(total.lines[0].get_ydata())[:2] == [2.17532, 2.04005]
    assert labels(terms) == ["loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"]
    assert max(rate.lines[0].get_ydata()) == 5e-4
    assert labels(metrics) == ["bbox_mAP, best 0.563 at epoch 12", "bbox_mAP_50, best 0.881 at epoch 12"]
    assert list(metrics.lines[0].get_xdata()) == [4, 8, 12]


def test_the_file_is_a_picture_and_is_replaced(work_dir: Path) -> None:
    first = write_curves(work_dir)
    assert first == work_dir / "curves.png"
    before = first.read_bytes()
    image = cv2.imread(str(first))
    assert image.shape[0] > 600
    assert image.std() > 10
    log = next(work_dir.glob("*.log.json"))
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:20]))
    assert write_curves(work_dir) == first
    assert first.read_bytes() != before
    assert sorted(path.name for path in work_dir.iterdir()) == [log.name, "curves.png"]


@pytest.mark.parametrize("content", [None, "", '{"env_info": "x"}\n', "not\njson\n"])
def test_nothing_to_draw_is_told_not_raised(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "a.log.json").write_text(content)
    told: list[str] = []
    assert write_curves(tmp_path, note=told.append) is None
    assert told[0].startswith("curves.png was not written: LogError: ")
    assert write_curves(tmp_path) is None


def test_a_folder_that_cannot_be_written_ends_no_training(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detector.engine.curves.write_bytes", full)
    told: list[str] = []
    assert write_curves(work_dir, note=told.append) is None
    assert "No space left on device" in told[0]


def test_a_run_without_evaluation_or_terms(tmp_path: Path) -> None:
    record = {"mode": "train", "epoch": 1, "iter": 10, "lr": 0.1, "loss": 1.0}
    (tmp_path / "a.log.json").write_text(json.dumps(record) + "\n")
    panels = draw_run(read_run(tmp_path)).axes
    assert [text.get_text() for axes in panels for text in axes.texts] == [
        "no terms of a loss in the log",
        "no evaluation yet",
    ]
    assert write_curves(tmp_path) is not None


def test_many_terms_are_shown_as_the_largest(tmp_path: Path) -> None:
    terms = {f"s{i}.loss": float(i) for i in range(12)}
    record = {"mode": "train", "epoch": 1, "iter": 10, "lr": 0.1, **terms, "loss": 66.0}
    (tmp_path / "a.log.json").write_text(json.dumps(record) + "\n")
    axes = draw_run(read_run(tmp_path)).axes[1]
    assert labels(axes) == [f"s{i}.loss" for i in range(3, 12)]
    assert axes.get_title() == "terms of the loss, the 9 largest of 12"


def test_smoothing_keeps_a_constant_and_does_not_lag() -> None:
    assert _smoothed([3.0] * 200) == pytest.approx([3.0] * 200)
    ramp = [float(i) for i in range(400)]
    assert _smoothed(ramp)[100:300] == pytest.approx(ramp[100:300], abs=0.01)


def test_long_series_are_thinned_to_means() -> None:
    long = Series("loss", tuple(map(float, range(6000))), (1.0, 3.0) * 3000, "iteration")
    thin = _thinned(long)
    assert len(thin.x) == 1500
    assert set(thin.y) == {2.0}
    assert thin.x[0] == 1.5


def test_plot_curve_without_a_display_says_where_the_file_is(
    work_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze-logs", "plot_curve", ".", "--keys", "bbox_mAP", "loss", "--style", "dark"]) == 0
    assert capsys.readouterr().out == "curve: curve.png\n"
    height, width = cv2.imread("curve.png").shape[:2]
    assert width > 1.5 * height  # two panels


@pytest.mark.parametrize("name", ["a.pdf", "deep/a.svg", "a.PNG"])
def test_plot_curve_writes_what_the_ending_says(work_dir: Path, name: str) -> None:
    arguments = ["analyze-logs", "plot_curve", ".", ".", "--legend", "one", "two", "--title", "t"]
    assert main([*arguments, "--out", name, "--start-epoch", "4", "--eval-interval", "8"]) == 0
    starts = {".pdf": b"%PDF", ".svg": b"<?xml", ".PNG": b"\x89PNG"}
    assert (work_dir / name).read_bytes().startswith(starts[Path(name).suffix])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keys", "bbox_mAPP"], "Did you mean bbox_mAP?"),
        (["--legend", "a", "b"], "found 2 labels for 1 curves"),
        (["--style", "drak"], "Did you mean dark?"),
        (["--out", "x.xyz"], "found the ending '.xyz'; expected one of"),
        (["--start-epoch", "13"], "the log has epochs 4, 8, 12"),
    ],
    ids=["key", "legend", "style", "ending", "epoch"],
)
def test_plot_curve_refuses(
    work_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["analyze-logs", "plot_curve", ".", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert [path.name for path in work_dir.iterdir()] == ["20260101_000000.log.json"]
