"""Everything this project tells MLflow. Nothing here can delay or fail a training.

MLflow is a reader of the run folder: the training log is read on from a remembered position and sent in
batches by a thread, so what could not be sent now is sent by the next call, once. The store is ``mlflow.db``
in the project with the artifacts in ``mlruns`` beside it; no server and no network is involved.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tasks import spool
from tasks.digests import sha256_file
from tasks.steps import Log, locked
from tasks.tracked_run import Facts, RunFile, flatten, metric_name
from tasks.versioning import data_digest

EVERY = 5.0  # seconds between two readings of the training log
PATIENCE = 60.0  # seconds that the end of a step may wait for the last batch
FILE_LIMIT_MB = (
    256  # of a larger checkpoint only path and sha256 are logged; DETECTOR_MLFLOW_FILE_MB overrides
)
BATCH = 900  # MLflow takes 1000 metrics, 100 params and 100 tags per call


def store_uri() -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, otherwise the database file in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def is_local() -> bool:
    """Whether the store is the project's own database file, with the artifacts beside it."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


class Session:
    """An open MLflow run, known from the ``mlflow_run.json`` of a folder. Every method may raise."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault(
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"
        )  # a server of the user's that is down: minutes
        for name in ("alembic", "mlflow.store.db.utils"):  # they announce every table of a new database
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient  # three seconds: only once there is something to say

        self.folder, self.uri = folder, store_uri()
        self.file = RunFile.load(folder)
        with locked("mlflow", lambda text: None):  # the first one creates the database
            self.client = MlflowClient(tracking_uri=self.uri)

    def reopen(self) -> bool:
        """Whether the run of the folder is still there."""
        from mlflow.exceptions import MlflowException

        if self.file.uri != self.uri or not self.file.run_id:
            return False
        try:
            run = self.client.get_run(self.file.run_id)
        except MlflowException:
            return False
        return bool(run.info.lifecycle_stage == "active")

    def open(self, facts: Facts) -> None:
        """Open the training's run: the folder's, else the one with its key, else a new one; describe it."""
        with locked("mlflow", lambda text: None):
            if self.file.key != facts.key or not self.reopen():
                self._find_or_create(facts)
        self.once("config", facts.key, lambda: self._send_config(facts))
        tags = {**self.file.tags, "step.key": facts.key, "data.digest": facts.data}
        self.once("tags", json.dumps(tags, sort_keys=True), lambda: self.send_tags(tags))
        self.once("data", facts.data, lambda: self._send_data(facts))

    def _find_or_create(self, facts: Facts) -> None:
        found = self.client.get_experiment_by_name(facts.dataset)
        place = (Path.cwd() / "mlruns" / facts.dataset).as_uri() if is_local() else None
        experiment = (
            found.experiment_id
            if found
            else self.client.create_experiment(facts.dataset, artifact_location=place)
        )
        runs = self.client.search_runs([experiment], f"tags.`step.key` = '{facts.key}'", max_results=1)
        run = runs[0] if runs else None
        if run is None:
            name, tags = f"{facts.name} seed {facts.seed}", {"step.key": facts.key}
            run = self.client.create_run(experiment, run_name=name, tags=tags)
        self.file = RunFile(
            key=facts.key, uri=self.uri, experiment_id=str(experiment), run_id=run.info.run_id,
            tags=self.file.tags if self.file.key == facts.key else {},
            sent={"config": facts.key} if run.data.params else {},
        )  # fmt: skip
        self.file.save(self.folder)

    def once(self, what: str, digest: str, send: Callable[[], None]) -> None:
        """Call ``send`` unless ``what`` was already sent with this digest."""
        if self.file.sent.get(what) == digest:
            return
        send()
        self.file.sent[what] = digest
        self.file.save(self.folder)

    def _send_config(self, facts: Facts) -> None:
        from mlflow.entities import Param

        params = {**flatten(facts.config), "config": facts.name, "seed": str(facts.seed)}
        rows = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(rows), 100):
            self.client.log_batch(self.file.run_id, params=rows[start : start + 100])
        self.client.log_text(self.file.run_id, facts.text, f"{facts.name}.py")

    def send_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing those of the same names."""
        for key, value in tags.items():
            self.client.set_tag(self.file.run_id, key, value)

    def _send_data(self, facts: Facts) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": f"data/{facts.dataset}", "dvc_md5": data_digest()})
        dataset = Dataset(name=facts.dataset, digest=facts.data[:36], source_type="local", source=source)
        tag = InputTag(key="mlflow.data.context", value="training")
        self.client.log_inputs(self.file.run_id, [DatasetInput(dataset=dataset, tags=[tag])])

    def send_log(self, work_dir: Path) -> None:
        """Send what the training log holds beyond the remembered position, and remember the new one."""
        from mlflow.entities import Metric

        position = spool.Position(**asdict(self.file.position))
        rows = spool.read(work_dir, position)
        metrics = [
            Metric(metric_name(f"{row.mode}/{key}"), value, row.timestamp, row.step)
            for row in rows
            for key, value in row.metrics.items()
        ]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(self.file.run_id, metrics=metrics[start : start + BATCH])
        if position != self.file.position:
            self.file.position = position
            self.file.save(self.folder)

    def send_metrics(self, prefix: str, values: Mapping[str, float], digest: str) -> None:
        """Send final numbers, once per content."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(metric_name(f"{prefix}/{key}"), float(value), now, 0) for key, value in values.items()]
        self.once(prefix, digest, lambda: self.client.log_batch(self.file.run_id, metrics=rows))

    def send_files(self, files: Sequence[Path], folder: str, digest: str) -> None:
        """Copy files into the run's artifacts, once per content."""

        def send() -> None:
            for path in files:
                self.client.log_artifact(self.file.run_id, str(path), folder)

        self.once(f"files/{folder}", digest, send)

    def send_checkpoint(self, path: Path, sha256: str) -> None:
        """Path, size and sha256 of the checkpoint; the file too when it is small enough."""
        limit = float(os.environ.get("DETECTOR_MLFLOW_FILE_MB") or FILE_LIMIT_MB) * 1e6
        size = path.stat().st_size

        def send() -> None:
            tags = {"checkpoint.path": str(path), "checkpoint.sha256": sha256, "checkpoint.bytes": str(size)}
            self.send_tags(tags)
            if size <= limit:
                self.client.log_artifact(self.file.run_id, str(path), "checkpoint")

        self.once("checkpoint", sha256, send)

    def end(self, status: str) -> None:
        """Mark the run FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.file.run_id, status)


@contextmanager
def track(work_dir: Path, facts: Callable[[], Facts], log: Log) -> Iterator[None]:
    """Follow a training from a thread while the block runs, which never notices what happens to MLflow."""
    ended = threading.Event()
    status = ["RUNNING"]
    thread = _thread(lambda: _follow(work_dir, facts, ended, status, log))
    try:
        yield
        status[0] = "FINISHED"
    except Exception:
        status[0] = "FAILED"
        raise
    except BaseException:
        status[0] = "KILLED"
        raise
    finally:
        ended.set()
        thread.join(PATIENCE)


def _follow(
    work_dir: Path, facts: Callable[[], Facts], ended: threading.Event, status: list[str], log: Log
) -> None:
    session: Session | None = None
    silent = False
    while True:
        last = ended.wait(EVERY if session else 0.1)
        try:
            session = session or _running(work_dir, facts(), log)
            session.send_log(work_dir)
            if last:
                session.end(status[0])
            silent = False
        except Exception as error:
            if not silent:
                log(f"MLflow: {type(error).__name__}: {error}. Training goes on; {work_dir} is sent later.")
            silent = True
            ended.wait(EVERY)
        if last:
            return


def _running(work_dir: Path, facts: Facts, log: Log) -> Session:
    session = Session(work_dir)
    session.open(facts)
    session.client.update_run(session.file.run_id, status="RUNNING")
    log(f"MLflow: run {session.file.run_id}, `mlflow ui` shows it at {session.file.url}")
    return session


def finish(work_dir: Path, facts: Callable[[], Facts], checkpoint: Path, sha256: str, log: Log) -> None:
    """Send what a finished training's run was not told yet, and its checkpoint, noting the run beside it."""

    def send() -> None:
        _replay(work_dir, facts(), checkpoint, sha256)
        RunFile.load(work_dir).save(checkpoint.parent)

    # Known before MLflow answers, if ever: what is evaluated from now on belongs to this training.
    RunFile.load(work_dir).save(checkpoint.parent)
    _guarded(send, log)


def _replay(work_dir: Path, facts: Facts, checkpoint: Path, sha256: str) -> None:
    session = Session(work_dir)
    session.open(facts)
    session.send_log(work_dir)
    session.send_checkpoint(checkpoint, sha256)
    session.end("FINISHED")


def add(
    work_dir: Path, checkpoint: Path, facts: Callable[[str], Facts], send: Callable[[Session], None], log: Log
) -> None:
    """Call ``send`` with the run that made a checkpoint; the run's state and own tags stay as they are.

    Args:
        work_dir: where the training may still lie; a lost run is told everything again from there.
        checkpoint: promoted result of the training.
        facts: what the training of a key was, asked for only when it has to be told again.
        send: adds to the run.
        log: gets what failed.
    """

    def work() -> None:
        session = Session(checkpoint.parent)
        key = session.file.key
        if not session.reopen():
            if not key or RunFile.load(work_dir).key != key:
                log(f"MLflow: the run that made {checkpoint} is not there; the result is not added to it.")
                return
            _replay(work_dir, facts(key), checkpoint, sha256_file(checkpoint))
            RunFile.load(work_dir).save(checkpoint.parent)
            session = Session(checkpoint.parent)
        send(session)

    _guarded(work, log)


def _guarded(work: Callable[[], None], log: Log) -> None:
    """Run ``work`` in a thread for a while; a failure is only logged."""

    def run() -> None:
        try:
            work()
        except Exception as error:
            log(f"MLflow: {type(error).__name__}: {error}. The result is complete without it.")

    _thread(run).join(PATIENCE)


def _thread(work: Callable[[], None]) -> threading.Thread:
    """Start ``work`` in a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, daemon=True, name="mlflow")
    thread.start()
    return thread
