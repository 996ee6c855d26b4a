"""Converting in shards: the same bytes as one process writes, whoever runs the shards."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detector.data.converters import cityscapes_to_coco
from detector.data.parallel import run_ordered, spread_by
from detector.data.synthetic import Recipe, write_cityscapes
from detector.errors import MachineError
from tasks import prefect_cluster
from tasks.registry import STEPS
from tasks.request import DataRequest

WORK = prefect_cluster.work.fn


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a small data set in Cityscapes' format, and what one process makes of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(prefect_cluster.VARIABLE, raising=False)
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path / ".cache"))
    write_cityscapes(
        tmp_path / "data/toy", recipe=Recipe(seed=1, train=5, val=2, test=1, height=64, width=96)
    )
    cityscapes_to_coco.convert("data/toy", out_dir="expected", nproc=1)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.json"))}


def elsewhere(function: Callable[..., Any], *arguments: Any) -> SimpleNamespace:
    """A task that another machine ran: everything went there and back as bytes."""
    there = pickle.loads(pickle.dumps((function, arguments)))
    answer = pickle.dumps(WORK(there[0], *there[1]))
    return SimpleNamespace(result=lambda: pickle.loads(answer))


@pytest.mark.parametrize("shards", [1, 3, 64])
def test_shards_give_the_same_bytes(dataset: Path, monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    sent: list[int] = []

    def submit(function: Callable[..., Any], items: list[Any], folder: str) -> SimpleNamespace:
        sent.append(len(items))
        return elsewhere(function, items, folder)

    monkeypatch.setattr(prefect_cluster, "SHARDS", shards)
    monkeypatch.setattr(prefect_cluster, "work", SimpleNamespace(submit=submit))
    with spread_by(prefect_cluster.spread):
        STEPS["convert"].ensure(DataRequest("toy"), log=lambda text: None)
    assert sum(sent) == 8
    assert len(sent) == min(shards, 8)
    assert contents(dataset / "data/toy/annotations") == contents(dataset / "expected")


def test_what_a_cluster_made_the_command_line_finds(dataset: Path) -> None:
    said: list[str] = []
    with spread_by(lambda function, items: map(function, items)):
        STEPS["convert"].ensure(DataRequest("toy"), log=said.append)
    STEPS["convert"].ensure(DataRequest("toy"), log=said.append)
    assert said[-1].startswith("convert: up to date")


def test_way_of_running_ends_with_its_block() -> None:
    progress: list[tuple[int, int]] = []
    with spread_by(lambda function, items: [function(item) * 10 for item in items]):
        assert list(run_ordered(abs, [-1, -2], progress=lambda *done: progress.append(done))) == [10, 20]
    assert list(run_ordered(abs, [-1, -2])) == [1, 2]
    assert progress == [(1, 2), (2, 2)]


def test_worker_without_the_projects_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="not found on a worker of the cluster"):
        prefect_cluster.work.fn(abs, [1], str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("asked", "variable", "expected"),
    [(None, "", False), (None, "local", True), ("processes", "local", False), ("dask", "", True)],
)
def test_cluster_is_used_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, variable: str, expected: bool
) -> None:
    monkeypatch.setenv(prefect_cluster.VARIABLE, variable)
    assert prefect_cluster.wanted(asked) is expected


def test_missing_package_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"no package prefect-dask; .* `uv sync --group cluster`"):
        prefect_cluster.runner()


@pytest.mark.slow
@pytest.mark.flow
def test_local_cluster_gives_the_same_bytes(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prefect_dask", reason="the dependency group `cluster` is not installed")
    from prefect.testing.utilities import prefect_test_harness

    monkeypatch.setattr(prefect_cluster, "cpu_count", lambda: 2)
    shutil.copy(Path(__file__).resolve().parents[2] / "pyproject.toml", dataset)
    with prefect_test_harness(server_startup_timeout=120):
        prefect_cluster.convert_on_cluster.with_options(task_runner=prefect_cluster.runner())("toy", None)
    assert contents(dataset / "data/toy/annotations") == contents(dataset / "expected")
