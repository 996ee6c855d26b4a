from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tasks import spool
from tasks.spool import Position


def line(mode: str, epoch: int, iteration: int, **values: float | str) -> str:
    return json.dumps({"mode": mode, "epoch": epoch, "iter": iteration, **values}) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "20260101_000000.log.json"
    path.write_text(
        json.dumps({"env_info": "x", "seed": 0, "iters_per_epoch": 25}) + "\n"
        + line("train", 1, 10, lr=0.1, loss=2.0, loss_cls=1.5, time=0.5, memory=10)
        + line("train", 1, 20, lr=0.2, loss=1.0, loss_cls=0.5, time=0.5)
        + line("val", 1, 8, lr=0.2, bbox_mAP=0.25, bbox_mAP_copypaste="0.250 0.5")
        + line("train", 2, 10, lr=0.2, loss=0.5, loss_cls=0.25, time=0.5)
    )  # fmt: skip
    return path


def test_steps_count_from_the_first_epoch_on(log: Path) -> None:
    rows = spool.read(log.parent, Position())
    assert [(row.mode, row.epoch, row.step) for row in rows] == [
        ("train", 1, 10), ("train", 1, 20), ("val", 1, 25), ("train", 2, 35),
    ]  # fmt: skip


def test_metrics_are_the_numbers_of_a_line(log: Path) -> None:
    rows = spool.read(log.parent, Position())
    assert rows[0].metrics == {"lr": 0.1, "loss": 2.0, "loss_cls": 1.5, "time": 0.5, "memory": 10.0}
    assert rows[2].metrics == {"lr": 0.2, "bbox_mAP": 0.25}


def test_timestamps_grow_and_are_the_same_on_every_reading(log: Path) -> None:
    stamps = [row.timestamp for row in spool.read(log.parent, Position())]
    assert stamps == sorted(stamps)
    assert stamps == [row.timestamp for row in spool.read(log.parent, Position())]
    assert stamps[1] - stamps[0] == 5000


def test_reading_goes_on_where_it_ended_and_survives_json(log: Path) -> None:
    whole = spool.read(log.parent, Position())
    text = log.read_bytes()
    cut = text.index(b'{"mode": "val"') + 20
    log.write_bytes(text[:cut])
    position = Position()
    first = spool.read(log.parent, position)
    log.write_bytes(text)
    position = Position(**json.loads(json.dumps(asdict(position))))
    second = spool.read(log.parent, position)
    assert first + second == whole
    assert len(first) == 2


def test_repeated_lines_of_a_resumed_training_count_once(log: Path) -> None:
    position = Position()
    spool.read(log.parent, position)
    (log.parent / "20260101_010000.log.json").write_text(
        json.dumps({"seed": 0, "iters_per_epoch": 25}) + "\n"
        + line("train", 2, 10, loss=0.5, time=0.5)
        + line("train", 2, 20, loss=0.4, time=0.5)
    )  # fmt: skip
    assert [row.step for row in spool.read(log.parent, position)] == [45]


def test_damaged_line_is_passed_over(log: Path) -> None:
    log.write_text(log.read_text() + "{not json\n" + line("train", 2, 20, loss=0.4, time=0.5))
    assert spool.read(log.parent, Position())[-1].step == 45


def test_without_an_epoch_length_the_longest_first_epoch_counts(tmp_path: Path) -> None:
    path = tmp_path / "20260101_000000.log.json"
    path.write_text(
        "".join(line("train", epoch, number, loss=1.0) for epoch, number in ((1, 10), (1, 20), (2, 10)))
    )
    assert [row.step for row in spool.read(tmp_path, Position())] == [10, 20, 30]


def test_loss_table(log: Path) -> None:
    table = spool.loss_table(spool.read(log.parent, Position())).splitlines()
    assert table[0] == "step,epoch,loss,lr,loss_cls"
    assert table[1] == "10,1,2.0,0.1,1.5"
    assert len(table) == 4


def test_empty_folder(tmp_path: Path) -> None:
    assert spool.read(tmp_path, Position()) == []
    assert spool.loss_table([]) == "step,epoch,loss\n"


def test_run_by_iterations_counts_on(tmp_path: Path) -> None:
    (tmp_path / "20260101_000000.log.json").write_text(
        json.dumps({"config": "runner = dict(type='IterBasedRunner')", "iters_per_epoch": 25}) + "\n"
        + line("train", 1, 20, loss=2.0) + line("val", 1, 20, bbox_mAP=0.1)
        + line("train", 2, 40, loss=1.0) + line("val", 1, 40, bbox_mAP=0.2)
    )  # fmt: skip
    assert [(row.mode, row.step) for row in spool.read(tmp_path, Position())] == [
        ("train", 20), ("val", 20), ("train", 40), ("val", 40),
    ]  # fmt: skip


def test_points_of_a_training_line_name_its_epoch(log: Path) -> None:
    first, _, validated, _ = (spool.points(row) for row in spool.read(log.parent, Position()))
    assert {point.key: point.value for point in first} == {
        "train/lr": 0.1, "train/loss": 2.0, "train/loss_cls": 1.5, "train/time": 0.5, "train/memory": 10.0,
        "epoch": 1.0,
    }  # fmt: skip
    assert {(point.key, point.step) for point in validated} == {("val/lr", 25), ("val/bbox_mAP", 25)}


def test_measurements_of_the_machine_are_read_on(tmp_path: Path) -> None:
    path = tmp_path / spool.SYSTEM_FILE
    path.write_text('{"step": 1, "timestamp": 5, "cpu": 10.5}\n{broken\n{"step": 2, "timest')
    found, offset = spool.read_system(tmp_path, 0)
    assert found == [spool.Point("system/cpu", 10.5, 5, 1)]
    path.write_text(path.read_text() + 'amp": 6, "cpu": 20, "name": "x"}\n')
    assert spool.read_system(tmp_path, offset)[0] == [spool.Point("system/cpu", 20.0, 6, 2)]
    assert spool.last_system_step(path) == 2
    assert spool.last_system_step(tmp_path / "none" / path.name) == 0
