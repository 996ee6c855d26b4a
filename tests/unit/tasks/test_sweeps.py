from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from detector.errors import ConfigError
from tasks import __main__ as command
from tasks import sweeps, tables, tracking
from tasks.request import Request, variant
from tasks.sweeps import Member
from tasks.tracked_run import RunFile

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTOR_CACHE", raising=False)
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    return tmp_path


def two(**metrics: float) -> list[Member]:
    found = sweeps.members(Request(), ["mask_rcnn"], [0, 1], [])
    found[0].done = [
        {"step": "train", "seconds": 2.25, "value": {"sha256": "1"}},
        {"step": "evaluate", "seconds": 1.0, "value": {"metrics": metrics}},
    ]
    found[1].error = "it broke | badly\nTraceback ..."
    return found


def test_every_config_with_every_override_and_seed(folder: Path) -> None:
    found = sweeps.members(
        Request(epochs=3),
        ["mask_rcnn", "faster_rcnn"],
        [0, 7],
        ["", "optimizer.lr=0.01 data.samples_per_gpu=1"],
    )
    assert len(found) == len({member.request.run_dir for member in found}) == 8
    assert found[3].label == "mask_rcnn_r18_fpn_sample seed 7 optimizer.lr=0.01 data.samples_per_gpu=1"
    assert {member.request.epochs for member in found} == {3}
    assert found[2].request.loaded.data["optimizer"]["lr"] == 0.01


def test_a_run_that_is_named_twice_is_one(folder: Path) -> None:
    assert len(sweeps.members(Request(), ["mask_rcnn", "mask_rcnn_r18_fpn_sample"], [0, 0], ["", ""])) == 1


def test_member_without_overrides_is_the_run_of_train_eval(folder: Path) -> None:
    (member,) = sweeps.members(Request(), ["mask_rcnn"], [3], [])
    assert member.request == Request("mask_rcnn", seed=3)


def test_two_configs_of_one_name_are_refused(folder: Path) -> None:
    (folder / "mask_rcnn_r18_fpn_sample.py").write_text(
        "_base_ = ['configs/mask_rcnn/mask_rcnn_r18_fpn_sample.py']"
    )
    with pytest.raises(ConfigError, match="whose results go to the same folder"):
        sweeps.members(Request(), ["mask_rcnn", "./mask_rcnn_r18_fpn_sample.py"], [0], [])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("a.b=1", "c=2"), ("c=2", "a.b=1"), True),
        (("a=1",), ("a=-1",), False),
        (("a='x'",), ("a=x",), False),
        (("a=" + "x" * 90 + "1",), ("a=" + "x" * 90 + "2",), False),
    ],
    ids=["order", "sign", "quotes", "long"],
)
def test_folder_of_overrides_tells_them_apart(
    one: tuple[str, ...], other: tuple[str, ...], same: bool
) -> None:
    assert (variant(one)[-6:] == variant(other)[-6:]) is same
    assert all("/" not in variant(names) and len(variant(names)) < 80 for names in (one, other))
    assert variant(()) == ""


def test_overrides_survive_json() -> None:
    request = Request(overrides=("optimizer.lr=0.01",))
    assert Request(**json.loads(json.dumps(vars(Request(overrides=["optimizer.lr=0.01"]))))) == request  # type: ignore[arg-type]


def test_rows_and_what_failed(folder: Path) -> None:
    found = two(bbox_mAP=0.5, bbox_mAP_s=0.1)
    RunFile(key="k", run_id="abc").save(found[0].request.run_dir)
    first, second = sweeps.rows(found)
    assert first == {
        "config": "mask_rcnn_r18_fpn_sample", "overrides": "", "seed": 0, "state": "completed",
        "bbox_mAP": 0.5, "seconds": 3.2, "run": "abc",
    }  # fmt: skip
    assert (second["state"], second["bbox_mAP"], second["run"]) == ("failed: it broke | badly", None, "")
    assert sweeps.members(Request(), ["mask_rcnn"], [2], [])[0].state == "not run"
    said = sweeps.failure(found)
    assert said.startswith("1 of 2 runs failed: mask_rcnn_r18_fpn_sample seed 1: it broke | badly.")
    assert sweeps.failure(found[:1]) == ""
    assert "| mask_rcnn_r18_fpn_sample |  | 1 | failed: it broke \\| badly |" in tables.markdown(
        [first, second]
    )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(tracking, "open_sweep", lambda *arguments: calls.append(arguments) or "parent")
    monkeypatch.setattr(tracking, "close_sweep", lambda *arguments: calls.append(arguments))
    return calls


def test_one_mlflow_run_above_the_members(folder: Path, told: list[Any]) -> None:
    found = two(bbox_mAP=0.5)
    RunFile(key="k", run_id="abc", experiment_id="1").save(found[0].request.run_dir)
    with sweeps.tracked(found, {"seeds": [0, 1], "epochs": None, "configs": ["mask_rcnn"]}, print):
        pass
    opened, closed = told
    where = sweeps.folder(found)
    assert opened[:3] == (where.name, "sample", {"seeds": "0, 1", "configs": "mask_rcnn"})
    assert closed[:3] == ("parent", [member.request.run_dir for member in found], sweeps.rows(found))
    assert json.loads((where / "sweep.json").read_text())["mlflow_run"] == "parent"
    assert "runs/parent" in sweeps.page(found)
    assert "runs/abc" in sweeps.page(found)


@pytest.mark.parametrize(
    ("done", "refresh", "runs"), [(True, None, 0), (True, ["train"], 1), (False, None, 1)]
)
def test_finished_comparison_is_not_told_again(
    folder: Path, told: list[Any], monkeypatch: pytest.MonkeyPatch, done: bool, refresh: Any, runs: int
) -> None:
    found = two(bbox_mAP=0.5)
    sweeps.save(sweeps.folder(found), "earlier", [])
    monkeypatch.setattr(sweeps, "finished", lambda members: done)
    with sweeps.tracked(found, {"refresh": refresh}, print):
        pass
    assert len(told) == 2 * runs
    assert sweeps.parent_of(sweeps.folder(found)) == ("parent" if runs else "earlier")


def test_nothing_is_finished_before_anything_ran(folder: Path) -> None:
    assert not sweeps.finished(two())


def test_comparison_is_kept_when_the_flow_is_cancelled(
    folder: Path, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a slow MLflow does not hold up the cancel."""
    found = two(bbox_mAP=0.5)
    monkeypatch.setattr(sweeps, "PATIENCE_WHEN_STOPPED", 0.1)
    monkeypatch.setattr(tracking, "close_sweep", lambda *arguments: told.append(arguments) or time.sleep(60))
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), sweeps.tracked(found, {}, print):
        raise KeyboardInterrupt
    assert time.monotonic() - started < 30
    assert len(told) == 2
    assert json.loads((sweeps.folder(found) / "sweep.json").read_text())["rows"][0]["bbox_mAP"] == 0.5


def test_mlflow_that_answers_only_at_the_end_is_told_then(
    folder: Path, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["", "late"])
    monkeypatch.setattr(tracking, "open_sweep", lambda *arguments: next(answers))
    found = two(bbox_mAP=0.5)
    with sweeps.tracked(found, {}, print):
        pass
    assert [call[0] for call in told] == ["late"]
    assert sweeps.parent_of(sweeps.folder(found)) == "late"


def test_member_by_hand_is_the_same_run(folder: Path) -> None:
    (folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    words = ["train", "--config", "mask_rcnn", "--overrides", "optimizer.lr=0.01", "data.samples_per_gpu=1"]
    asked = command.request_from(command.parser().parse_args(words))
    (member,) = sweeps.members(Request(), ["mask_rcnn"], [0], ["optimizer.lr=0.01 data.samples_per_gpu=1"])
    assert asked.run_dir == member.request.run_dir
    assert asked.loaded.data == member.request.loaded.data
