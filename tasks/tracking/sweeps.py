"""A parent run over the runs of several configs or seeds, with a table and a chart that compare them."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks import spool, tracked_run
from tasks.steps import Log, locked
from tasks.tracked_run import RunFile
from tasks.tracking import following, store
from tasks.tracking.session import Session

PARENT_TAG = "mlflow.parentRunId"
TABLE, CHART = "comparison.json", "comparison.png"
PANELS = 6  # metrics that are drawn, the first ones
NAMES = ("config", "dataset", "seed")  # columns that name a run
NO_METRICS = {"seed", "epochs", "processes", "seconds", "run"}


def open_sweep(name: str, dataset: str, params: Mapping[str, str], log: Log) -> str:
    """Open the parent run of a sweep.

    Args:
        name: of the run.
        dataset: the experiment it belongs to.
        params: what is compared.
        log: gets what failed.

    Returns:
        the run's id, '' when MLflow does not answer in time.
    """
    found: list[str] = []
    given_up = threading.Event()

    def work() -> None:
        from mlflow.entities import Param

        session = Session(Path())
        with locked("mlflow", lambda text: None):
            tags = {**tracked_run.tags_now(), "sweep": name}
            run = session.client.create_run(session.experiment(dataset), run_name=name, tags=tags).info.run_id
        if given_up.is_set():  # nobody knows this run
            session.client.set_terminated(run, "KILLED")
            return
        rows = [Param(key, value) for key, value in tracked_run.flatten(params).items()]
        found.append(run)
        session.client.log_batch(run, params=rows)

    if store.enabled():
        following.guarded(work, Path("runs"), log)
    given_up.set()
    return found[0] if found else ""


def close_sweep(run_id: str, folders: Sequence[Path], rows: Sequence[Mapping[str, object]], log: Log) -> None:
    """Put the runs of ``folders`` below the parent, compare them there, and end it.

    Args:
        run_id: from ``open_sweep``; nothing is done for ''.
        folders: each holds ``mlflow_run.json``.
        rows: of the comparison: column -> value; numbers are drawn, and their best value is logged.
        log: gets what failed.
    """
    if not run_id or not store.enabled():
        return

    def work() -> None:
        session = Session(Path())
        session.file = RunFile(run_id=run_id, uri=session.uri)
        for folder in folders:
            _adopt(session, RunFile.load(tracked_run.training_of(folder)), log)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        session.send_table({name: [_cell(row.get(name)) for row in rows] for name in columns}, TABLE)
        now = int(time.time() * 1000)
        best = {name: max(values) for name, values in numbers(rows).items()}
        session.send_points([spool.Point(f"best/{name}", value, now, 0) for name, value in best.items()])
        _draw(session, rows)
        session.client.set_terminated(run_id, "FINISHED")

    following.guarded(work, Path("runs"), log)


def _adopt(session: Session, child: RunFile, log: Log) -> None:
    from mlflow.exceptions import MlflowException

    if not child.run_id or child.uri != session.uri:
        log(
            f"MLflow: a run of the sweep is not known there (attempt {child.attempt or '?'}); it stays alone."
        )
        return
    try:
        session.client.set_tag(child.run_id, PARENT_TAG, session.file.run_id)
    except MlflowException as error:
        log(f"MLflow: {store.described(error)}; the run {child.run_id} stays alone.")


def numbers(rows: Sequence[Mapping[str, object]]) -> dict[str, list[float]]:
    """The finite numbers of every column that has some, in the order of the columns."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if name in NO_METRICS:
                continue
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                found.setdefault(name, []).append(float(value))
    return found


def _cell(value: object) -> object:
    """A value that a table in JSON can hold."""
    if value is None or isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def _draw(session: Session, rows: Sequence[Mapping[str, object]]) -> None:
    from detector.visualize.charts import bars

    metrics = list(numbers(rows))
    if not metrics:
        return
    labels = [_label(row, number) for number, row in enumerate(rows, start=1)]
    values = {name: [_number(row.get(name)) for row in rows] for name in metrics[:PANELS]}
    with tempfile.TemporaryDirectory() as folder:
        path = bars(values, labels, Path(folder) / CHART)
        session.send_files([path], "")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _label(row: Mapping[str, object], number: int) -> str:
    named = [
        f"seed {row[key]}" if key == "seed" else str(row[key]) for key in NAMES if row.get(key) is not None
    ]
    return "\n".join(named) or f"run {number}"
