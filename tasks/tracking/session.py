"""An open MLflow run: what is sent to it, each thing once however often it is tried."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks import spool
from tasks.digests import digest
from tasks.steps import Log, locked
from tasks.tracked_run import WRITING, DataInput, Facts, RunFile, metric_name
from tasks.tracking import pictures, store

BATCH, PARAMS = 900, 100  # MLflow takes 1000 metrics, 100 params and 100 tags per call
ATTEMPT = "train.attempt"  # the tag by which a training's run is found again
# Megabytes up to which a checkpoint itself is copied to MLflow; else only its path, sha256 and size are told.
COPY_VARIABLE = "DETECTOR_MLFLOW_FILE_MB"


@contextmanager
def sending(work_dir: Path, log: Log, *, wait: bool = True) -> Iterator[None]:
    """Be the only one who tells MLflow about a training.

    Raises:
        BlockingIOError: somebody else does, and nobody wants to wait.
    """
    name = f"tracking-{digest(str(work_dir.absolute()))[:16]}"
    with locked(name, log, wait=wait):
        yield


class Session:
    """The MLflow run of the ``mlflow_run.json`` in a folder. Every method may raise, and be called again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, store.shown_uri()
        self.file = RunFile.load(folder)
        with locked("mlflow", lambda text: None):  # the first one creates the database
            self.client: Any = store.client()

    def reopen(self) -> bool:
        """Whether the run of the folder is still there.

        Raises:
            MlflowException: the store does not say, as it does not answer.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

        if self.file.uri != self.uri or not self.file.run_id:
            return False
        try:
            run = self.client.get_run(self.file.run_id)
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return False
            raise
        return bool(run.info.lifecycle_stage == "active")

    def open(self, facts: Facts) -> None:
        """Open the training's run: the folder's, else the one of its attempt, else a new one."""
        with locked("mlflow", lambda text: None):
            if not self.reopen():
                self._find_or_create(facts)
        tags = self._tags(facts)
        self.once("tags", digest(tags), lambda: self.send_tags(tags))

    def _tags(self, facts: Facts) -> dict[str, str]:
        known = {"step.key": facts.key, "data.digest": facts.data, "mlflow.user": os.environ.get("USER", "")}
        return {key: value for key, value in {**self.file.tags, **known}.items() if value}

    def _find_or_create(self, facts: Facts) -> None:
        experiment = self.experiment(facts.dataset)
        tag = {ATTEMPT: self.file.attempt}
        runs = self.client.search_runs([experiment], f"tags.`{ATTEMPT}` = '{tag[ATTEMPT]}'", max_results=1)
        tags, run = self._tags(facts), runs[0] if runs else None
        if run is None:
            name = f"{facts.name} seed {facts.seed}"
            began = self.file.began or None  # else a run that is told of afterwards would end before it began
            run = self.client.create_run(experiment, began, {**tags, **tag}, name)
        self.file.uri, self.file.experiment_id = self.uri, str(experiment)
        self.file.run_id, self.file.sent = run.info.run_id, {}
        self.file.position, self.file.system = spool.Position(), 0  # what is sent twice counts once
        self.save()

    def experiment(self, name: str) -> str:
        """The id of the experiment of a name, which is made if there is none."""
        found = self.client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        place = (Path.cwd() / "mlruns" / name).as_uri() if store.is_local() else None
        return str(self.client.create_experiment(name, artifact_location=place))

    def once(self, what: str, content: str, send: Callable[[], None]) -> None:
        """Call ``send`` unless ``what`` was already sent with this content's digest."""
        if self.file.sent.get(what) == content:
            return
        send()
        self.file.sent[what] = content
        self.save()

    def send_training(self, facts: Facts) -> None:
        """Send what the folder of a training holds and the run was not told yet; the metrics first."""
        self.refresh()
        self.send_log()
        self.once("config", facts.key, lambda: self._send_config(facts))
        self.once(
            "data", digest([asdict(found) for found in facts.inputs]), lambda: self.send_data(facts.inputs)
        )
        self.send_system()
        pictures.send(self)
        if self.file.checkpoint:
            self.once("checkpoint", self.file.checkpoint["sha256"], self._send_checkpoint)

    def save(self) -> None:
        """Remember what was sent, and keep what the training has noted in the file meanwhile."""
        with WRITING:
            self.refresh()
            self.file.save(self.folder)

    def refresh(self) -> None:
        """Take over what the training has noted in the file: its end and its result."""
        now = RunFile.load(self.folder)
        if now.attempt == self.file.attempt:
            self.file.status, self.file.ended, self.file.checkpoint = now.status, now.ended, now.checkpoint

    def _send_config(self, facts: Facts) -> None:
        from mlflow.entities import Param

        params = {**facts.params, "config": facts.name, "seed": str(facts.seed)}
        rows = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(rows), PARAMS):
            self.client.log_batch(self.file.run_id, params=rows[start : start + PARAMS])
        self.client.log_text(self.file.run_id, facts.text, f"{facts.name}.py")

    def send_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing those of the same names."""
        from mlflow.entities import RunTag

        rows = [RunTag(key, value) for key, value in tags.items()]
        self.client.log_batch(self.file.run_id, tags=rows)

    def send_data(self, inputs: Sequence[DataInput]) -> None:
        """Name the data that was read."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        rows = [
            DatasetInput(
                dataset=Dataset(
                    name=one.name, digest=one.digest[:36], source_type="local", source=one.source
                ),
                tags=[InputTag(key="mlflow.data.context", value=one.context)],
            )
            for one in inputs
        ]
        if rows:
            self.client.log_inputs(self.file.run_id, rows)

    def send_log(self) -> None:
        """Send what the training log holds beyond the remembered position, and remember the new one."""
        position = spool.Position(**asdict(self.file.position))
        rows = spool.read(self.folder, position)
        self.send_points([point for row in rows for point in spool.points(row)])
        if position != self.file.position:
            self.file.position = position
            self.save()

    def send_system(self) -> None:
        """Send what was measured of the machine beyond the remembered position."""
        points, offset = spool.read_system(self.folder, self.file.system)
        self.send_points(points)
        if offset != self.file.system:
            self.file.system = offset
            self.save()

    def send_points(self, points: Sequence[spool.Point]) -> None:
        """Send metrics in batches; the store keeps a point that comes again once."""
        from mlflow.entities import Metric

        rows = [Metric(metric_name(one.key), one.value, one.timestamp, one.step) for one in points]
        for start in range(0, len(rows), BATCH):
            self.client.log_batch(self.file.run_id, metrics=rows[start : start + BATCH])

    def send_files(self, files: Sequence[Path], folder: str) -> None:
        """Copy files into the run's artifacts."""
        for path in files:
            self.client.log_artifact(self.file.run_id, str(path), folder or None)

    def send_table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        """Write a table that MLflow shows as one; again replaces it, where MLflow's own call would append."""
        names = list(columns)
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        text = json.dumps({"columns": names, "data": rows})
        self.client.log_text(self.file.run_id, text, name)
        run = self.client.get_run(self.file.run_id)
        tables = json.loads(run.data.tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": name, "type": "table"}
        if entry not in tables:
            self.send_tags({"mlflow.loggedArtifacts": json.dumps([*tables, entry])})

    def _send_checkpoint(self) -> None:
        """Path, sha256 and size of the checkpoint, its loss curves; a copy only where that is asked for."""
        self.send_tags({f"checkpoint.{key}": value for key, value in self.file.checkpoint.items()})
        curves = self.folder / "curves.png"
        if curves.is_file():
            self.send_files([curves], "")
        path = Path(self.file.checkpoint["path"])
        limit = float(os.environ.get(COPY_VARIABLE) or 0) * 1e6
        if path.is_file() and path.stat().st_size <= limit:
            self.send_files([path], "checkpoint")

    def end(self, status: str, ended: int = 0) -> None:
        """Mark the run FINISHED, FAILED or KILLED, at a time in milliseconds since 1970 or now."""
        mark = f"{status} {ended}"
        self.once("status", mark, lambda: self.client.set_terminated(self.file.run_id, status, ended or None))
