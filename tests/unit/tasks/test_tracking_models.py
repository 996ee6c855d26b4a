from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detector.errors import CheckpointError
from tasks import tracked_run, tracking
from tasks.tracked_run import Facts, RunFile
from tasks.tracking import models
from tasks.tracking.models import MeasuredModel, outdoes
from tasks.tracking.session import Session

MODEL = MeasuredModel(
    family="mask_rcnn", config="mask_rcnn_r18", dataset="sample", data="d1", metric="bbox_mAP", value="0.5",
    path="runs/model.pth", project="", sha256="", bytes="5", seed="0", commit="c",
)  # fmt: skip
HOLDER = {"dataset": "sample", "data": "d1", "metric": "bbox_mAP", "value": "0.5"}


@pytest.mark.parametrize(
    ("changes", "overall", "expected"),
    [
        ({"value": "0.6"}, True, True),
        ({"value": "0.4"}, True, False),
        ({"value": "0.5"}, True, False),
        ({"value": "0.1", "data": "d2"}, True, True),
        ({"value": "0.1", "metric": "segm_mAP"}, False, True),
        ({"value": "0.9", "dataset": "coco"}, True, False),
        ({"value": "0.1", "dataset": "coco"}, False, True),
    ],
    ids=["better", "worse", "equal", "new data", "new metric", "other set", "other set's own alias"],
)
def test_who_takes_the_alias(changes: dict[str, str], overall: bool, expected: bool) -> None:
    assert outdoes(replace(MODEL, **changes), HOLDER, overall=overall) is expected


@pytest.mark.parametrize("uri", ["models:/x", "models:/x@", "models:x@best", "models:/x/y", "models:/x/1/y"])
def test_a_wrong_name_is_told(uri: str) -> None:
    with pytest.raises(CheckpointError, match="models:/<family>@<alias>"):
        models.resolve(uri)


def test_asking_makes_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(CheckpointError, match=r"found no mlflow\.db in .*Change to it"):
        models.resolve("models:/mask_rcnn@best")
    assert list(tmp_path.iterdir()) == []


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A session of a run, and a function that registers a checkpoint in it."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (folder / "runs" / "train").mkdir(parents=True)
        facts = Facts("mask_rcnn_r18", 0, "train-1", "sample", "d", {}, "")
        tracked_run.begin(folder / "runs" / "train", facts)
        session = Session(folder / "runs" / "train")
        session.open(facts)

        def add(name: str, **changes: Any) -> str:
            path = folder / f"{name}.pth"
            path.write_bytes(name.encode())
            sha256 = models.sha256_file(path)
            given = {"project": str(folder), "path": path.name, "sha256": sha256, **changes}
            models.register(session, replace(MODEL, **given), quiet)
            return sha256

        yield session, add


def len_of(path: Path) -> int:
    return path.stat().st_size


def holder(session: Session, alias: str) -> str:
    return str(session.client.get_model_version_by_alias("mask_rcnn", alias).tags["sha256"])


@pytest.mark.slow
def test_the_best_one_is_found_by_its_alias_and_checked(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, add = registry
    first, again = add("first"), add("first")
    assert first == again
    assert len(session.client.search_model_versions("name = 'mask_rcnn'")) == 1
    better, _ = add("better", value="0.7"), add("worse", value="0.6")
    other = add("other", dataset="coco", value="0.9")
    assert [holder(session, name) for name in ("best", "best-sample", "best-coco")] == [better, better, other]
    version = session.client.get_model_version("mask_rcnn", "1")
    assert version.tags["metric"] == "bbox_mAP"
    assert version.run_id == session.file.run_id
    logged = session.client.search_logged_models([session.file.experiment_id])
    assert {one.tags["path"] for one in logged} == {"first.pth", "better.pth", "worse.pth", "other.pth"}

    assert tracking.resolve("models:/mask_rcnn@best").read_bytes() == b"better"
    assert tracking.resolve("models:/mask_rcnn/1").read_bytes() == b"first"
    with pytest.raises(CheckpointError, match="mlflow ui"):
        tracking.resolve("models:/mask_rcnn@worst")
    assert [path.read_bytes() for path in sorted(models.KEPT.iterdir(), key=len_of)] == [b"other", b"better"]
    Path("better.pth").unlink()  # as a later training of the same config and seed does
    Path("better.pth").write_bytes(b"bettes")
    assert tracking.resolve("models:/mask_rcnn@best").read_bytes() == b"better"
    models.kept_as({"sha256": better}).unlink()
    with pytest.raises(CheckpointError, match=r"version 2 of mask_rcnn: .*better\.pth was changed since"):
        tracking.resolve("models:/mask_rcnn@best")
    Path("better.pth").unlink()
    with pytest.raises(CheckpointError, match=r"found no file better\.pth .*Move it back"):
        tracking.resolve("models:/mask_rcnn@best")


@pytest.mark.slow
def test_a_sweep_has_its_runs_below_it_and_compares_them(registry: Any) -> None:
    session, _ = registry
    (Path("runs") / tracked_run.RUN_FILE).write_text((Path("runs/train") / tracked_run.RUN_FILE).read_text())
    parent = tracking.open_sweep("two seeds", "sample", {"config": "mask_rcnn"}, quiet)
    rows = [
        {"config": "mask_rcnn", "seed": seed, "bbox_mAP": value, "run": "x"}
        for seed, value in ((0, 0.5), (1, 0.6))
    ]
    tracking.close_sweep(parent, [Path("runs")], rows, quiet)
    run = session.client.get_run(parent)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"best/bbox_mAP": 0.6}
    assert run.data.params == {"config": "mask_rcnn"}
    names = {item.path for item in session.client.list_artifacts(parent)}
    assert names == {"comparison.json", "comparison.png"}
    table = session.client.load_table(run.info.experiment_id, "comparison.json", [parent])
    assert table["seed"].tolist() == [0, 1]
    child = session.client.get_run(RunFile.load(Path("runs")).run_id)
    assert child.data.tags["mlflow.parentRunId"] == parent


def test_a_sweep_without_mlflow_is_only_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise OSError("no server")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking.store, "client", fail)
    said: list[str] = []
    assert tracking.open_sweep("s", "sample", {}, said.append) == ""
    tracking.close_sweep("", [tmp_path], [], said.append)
    tracking.close_sweep("r", [tmp_path], [{"mAP": 1.0}], said.append)
    assert len(said) == 2
    assert all("no server" in text for text in said)
