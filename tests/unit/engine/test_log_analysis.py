"""Reading training logs: the reference's own file, resumed runs, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.cli import main
from detector.engine.log_analysis import (
    LogError,
    loss_terms,
    main_metrics,
    read_run,
    summary_text,
    train_times,
)

#: written by MMDetection 2.28.2
REFERENCE = Path(__file__).resolve().parents[2] / "golden" / "logs" / "faster_rcnn_r18_bccd.log.json"


def train(epoch: int, iteration: int, loss: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"mode": "train", "epoch": epoch, "iter": iteration, "lr": 0.1, "loss": loss, **more}


def val(epoch: int, ap: float = 0.5, iteration: int = 87) -> dict[str, Any]:
    return {"mode": "val", "epoch": epoch, "iter": iteration, "lr": 0.1, "bbox_mAP": ap, "text": "0.5 0.6"}


def write(path: Path, records: list[dict[str, Any]], *, meta: bool = True) -> Path:
    lines = [{"env_info": "x", "seed": 0}] if meta else []
    path.write_text("".join(json.dumps(record) + "\n" for record in [*lines, *records]))
    return path


@pytest.mark.parametrize(
    ("outliers", "slowest", "fastest", "spread", "mean"),
    [
        (False, (12, 1.0373), (2, 0.9644), 0.0190, 0.9979),
        (True, (12, 1.1238), (1, 1.0339), 0.0214, 1.0821),
    ],
    ids=["without the first lines", "all lines"],
)
def test_times_of_the_reference_log_are_what_the_reference_says(
    outliers: bool, slowest: tuple[int, float], fastest: tuple[int, float], spread: float, mean: float
) -> None:
    times = train_times(read_run(REFERENCE), include_outliers=outliers)
    assert max(times.epochs.items(), key=lambda item: item[1]) == pytest.approx(slowest, abs=6e-5)
    assert min(times.epochs.items(), key=lambda item: item[1]) == pytest.approx(fastest, abs=6e-5)
    assert (times.spread, times.mean) == pytest.approx((spread, mean), abs=6e-5)


def test_series_of_the_reference_log() -> None:
    run = read_run(REFERENCE)
    metric, loss = run.series("bbox_mAP"), run.series("loss")
    assert (metric.x, metric.y, metric.unit) == ((4, 8, 12), (0.4084, 0.5227, 0.5634), "epoch")
    assert (loss.unit, len(loss.x), loss.x[:7]) == ("iteration", 60, (10, 20, 30, 40, 50, 60, 70))
    assert loss_terms(run) == ["loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"]
    assert main_metrics(run) == ["bbox_mAP", "bbox_mAP_50"]


def test_a_resumed_run_is_one_run_and_counts_nothing_twice(tmp_path: Path) -> None:
    first = [train(1, 10), train(1, 20), val(1, 0.1), train(2, 10, 5.0), train(2, 20, 5.0), val(2, 0.9)]
    write(tmp_path / "20260101_000000.log.json", first)
    write(tmp_path / "20260102_000000.log.json", [train(2, 20, 2.0), val(2, 0.2), train(3, 10)])
    run = read_run(tmp_path)
    assert run.series("loss").x == (10, 20, 30, 40, 50)
    assert run.series("loss").y == (1, 1, 5, 2, 1)
    assert run.series("bbox_mAP").y == (0.1, 0.2)


def test_an_evaluation_that_was_pending_when_the_run_stopped(tmp_path: Path) -> None:
    write(tmp_path / "20260101_000000.log.json", [train(1, 10), val(1, 0.1)])
    write(tmp_path / "20260102_000000.log.json", [val(1, 0.2), train(2, 10)])
    assert read_run(tmp_path).series("bbox_mAP").y == (0.2,)


def test_a_run_from_the_start_in_the_same_folder_replaces_the_one_before(tmp_path: Path) -> None:
    write(tmp_path / "20260101_000000.log.json", [train(1, 10), train(2, 10), val(2)])
    write(tmp_path / "20260102_000000.log.json", [train(1, 10, 3.0)])
    assert read_run(tmp_path).records == (train(1, 10, 3.0),)


@given(parts=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 15)), max_size=6))
@settings(max_examples=40, deadline=None)
def test_wherever_a_run_is_killed_each_line_counts_once_as_written_last(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]]
) -> None:
    """Each part writes some lines and is killed; the next one resumes some lines before that."""
    folder, start, expected = tmp_path_factory.mktemp("run"), 0, {}
    for number, (length, back) in enumerate([*parts, (40, 0)]):
        end = min(start + length, 40)
        part = {step: train(step // 5 + 1, step % 5 * 10 + 10, float(number)) for step in range(start, end)}
        write(folder / f"2026010{number}_000000.log.json", list(part.values()))
        expected |= part
        start = max(end - back, 0)
    assert read_run(folder).records == tuple(expected[step] for step in range(40))


def test_an_iteration_based_run_stands_over_iterations(tmp_path: Path) -> None:
    records = [train(1, 50), train(1, 100), val(1, 0.1, 100), train(2, 150), val(2, 0.2, 150)]
    run = read_run(write(tmp_path / "a.log.json", records))
    assert run.series("loss").x == (50, 100, 150)
    assert (run.series("bbox_mAP").x, run.series("bbox_mAP").unit) == ((100, 150), "iteration")


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "a.log.json", [train(1, 10, float("nan")), train(1, 20, 2.0)]))
    assert run.series("loss").y == (2.0,)


def test_a_line_that_is_being_written_does_not_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.log.json", [train(1, 10)])
    path.write_text(path.read_text() + '{"mode": "train", "ep')
    assert read_run(path).records == (train(1, 10),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"epoch": 1}\nnot json\n{"epoch": 2}\n', r"line 2: found no JSON object"),
        ('{"env_info": "x"}\n', "no train or val lines"),
        (None, r"cannot be read as a training log"),
    ],
    ids=["text", "only facts", "missing"],
)
def test_what_is_no_log(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "a.log.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LogError, match=said):
        read_run(path)


def test_a_folder_without_logs(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"found no \*\.log\.json in this folder"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("key", "validated", "said"),
    [
        (
            "bbox_mAPP",
            True,
            r"no values of 'bbox_mAPP'. Did you mean bbox_mAP\? It has: lr, loss, bbox_mAP\.$",
        ),
        ("bbox_mAP", False, r"It has: lr, loss\. The run has no evaluation yet"),
        ("text", True, "no values of 'text'"),
    ],
    ids=["misspelt", "no evaluation", "not a number"],
)
def test_an_unknown_key(tmp_path: Path, key: str, validated: bool, said: str) -> None:
    records = [train(1, 10), *([val(1)] if validated else [])]
    run = read_run(write(tmp_path / "a.log.json", records))
    with pytest.raises(LogError, match=said):
        run.series(key)


def test_times_of_epochs_with_one_line_each_all_count(tmp_path: Path) -> None:
    records = [train(1, 10, time=2.0), train(2, 10, time=4.0)]
    times = train_times(read_run(write(tmp_path / "a.log.json", records)))
    assert (times.mean, times.spread, dict(times.epochs)) == (3.0, 1.0, {1: 2.0, 2: 4.0})


def test_summary_tells_how_a_run_went(tmp_path: Path) -> None:
    records = [
        train(1, 10, 2.0, time=1.0, data_time=0.5),
        val(1, 0.3),
        train(2, 10, 1.5, loss_cls=1.0, time=1.0, data_time=0.1),
        val(2, 0.2),
    ]
    text = "\n".join(summary_text(read_run(write(tmp_path / "a.log.json", records))))
    assert "last line: epoch 2, iteration 10, lr 0.1" in text
    assert "loss 1.5000 (loss_cls 1.0000)" in text
    assert "bbox_mAP: best 0.3000 at epoch 1, last 0.2000" in text
    assert "1.0000 s/iter, of which 0.3000 (30%) waiting for data" in text


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["bbox_mAP_75", "segm_mAP", "bbox_mAP"], ["segm_mAP", "bbox_mAP"]),
        (["mAP", "AP50"], ["mAP", "AP50"]),
        (["accuracy"], ["accuracy"]),
    ],
)
def test_main_metrics(tmp_path: Path, keys: list[str], expected: list[str]) -> None:
    record = {"mode": "val", "epoch": 1, "iter": 1, "lr": 0.1, **dict.fromkeys(keys, 0.5)}
    assert main_metrics(read_run(write(tmp_path / "a.log.json", [record]))) == expected


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (["cal_train_time"], "slowest epoch 12: 1.0373 s/iter"),
        (["cal_train_time", "--include-outliers"], "average: 1.0821 s/iter"),
        (["summary"], "bbox_mAP: best 0.5634 at epoch 12, last 0.5634"),
    ],
)
def test_the_command(capsys: pytest.CaptureFixture[str], action: list[str], said: str) -> None:
    assert main(["analyze-logs", action[0], str(REFERENCE), *action[1:]]) == 0
    assert said in capsys.readouterr().out
