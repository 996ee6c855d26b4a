"""What a step adds to the run of a training after its end: noted in a file, then sent, each part once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks import spool
from tasks.digests import digest
from tasks.steps import Log, write_json
from tasks.tracked_run import DataInput, Facts, RunFile, tell_copy, training_of
from tasks.tracking import following, models, store
from tasks.tracking.models import MeasuredModel
from tasks.tracking.session import Session, sending

FILE = "mlflow_addition.json"


@dataclass
class Addition:
    """The result of a step, for the run of the training whose model it used.

    Attributes:
        kind: prefix of its metrics and tags, and folder of its files in the run.
        attempt: of the training.
        when: milliseconds since 1970; the metrics' time, the same however often they are sent.
        metrics: name -> value.
        tags: name -> text.
        files: folder in the run -> paths.
        tables: file name in the run -> column -> values.
        inputs: the data that was read.
        model: what was measured of the checkpoint, to make a version of the model; None to make none.
        sent: part -> digest of what was sent.
    """

    kind: str
    attempt: str
    when: int
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    inputs: list[DataInput] = field(default_factory=list)
    model: MeasuredModel | None = None
    sent: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Addition | None:
        """The addition of a folder, or None where there is none that can be read."""
        try:
            data = json.loads((folder / FILE).read_text())
            data["inputs"] = [DataInput(**found) for found in data["inputs"]]
            data["model"] = MeasuredModel(**data["model"]) if data["model"] else None
            return cls(**data)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, folder: Path) -> None:
        """Write the file whole."""
        write_json(folder / FILE, asdict(self))


def add(folder: Path, addition: Addition, log: Log) -> None:
    """Note what a step adds in its folder, and send it, waiting no longer than a moment.

    Args:
        folder: of the step, below the run's folder.
        addition: what is added; its ``attempt`` says to which training.
        log: gets what failed.
    """
    addition.save(folder)
    if store.enabled():
        following.guarded(lambda: deliver(folder, log), folder.parent, log)


def deliver(folder: Path, log: Log) -> bool:
    """Send the addition in ``folder``, and before it what its training's run was not told yet.

    Returns:
        whether there is nothing left to send.
    """
    addition, run_dir = Addition.load(folder), folder.parent
    if addition is None:
        return True
    work_dir = training_of(run_dir)
    if addition.attempt != RunFile.load(work_dir).attempt or not addition.attempt:
        log(f"MLflow: {folder} is of a training that is not here any more; it is not added to a run.")
        return False
    with sending(work_dir, lambda text: None):
        session, facts = Session(work_dir), Facts.load(work_dir)
        if facts is not None:
            session.open(facts)
            following.send(session, facts)
            tell_copy(work_dir, run_dir)
        elif not session.reopen():
            log(f"MLflow: the run that made the model of {folder} is not there; nothing is added to it.")
            return False
        _send(session, addition, folder, log)
    return True


def _send(session: Session, addition: Addition, folder: Path, log: Log) -> None:
    run = session.file.run_id

    def once(what: str, content: Any, send: Callable[..., None], *arguments: Any) -> None:
        mark = digest([run, content])
        if content and addition.sent.get(what) != mark:
            send(*arguments)
            addition.sent[what] = mark
            addition.save(folder)

    kind, model = addition.kind, addition.model
    points = [
        spool.Point(f"{kind}/{key}", value, addition.when, 0) for key, value in addition.metrics.items()
    ]
    once("metrics", [asdict(point) for point in points], session.send_points, points)
    tags = {f"{kind}.{key}": value for key, value in addition.tags.items()}
    once("tags", tags, session.send_tags, tags)
    once("inputs", [asdict(one) for one in addition.inputs], session.send_data, addition.inputs)
    for place, paths in addition.files.items():
        once(f"files/{place}", [addition.when, paths], session.send_files, _there(paths), place)
    for name, columns in addition.tables.items():
        once(f"table/{name}", columns, session.send_table, columns, name)
    if model is not None:
        once("model", asdict(model), models.register, session, model, log)


def _there(paths: Sequence[str]) -> list[Path]:
    """The files that still are where they were; one that is gone must not hold up the others."""
    return [path for path in map(Path, paths) if path.is_file()]


def attempt_of(run_dir: Path) -> str:
    """The training that made the checkpoint in a run's folder; empty when unknown."""
    return RunFile.load(run_dir).attempt
