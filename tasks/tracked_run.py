"""What MLflow is told about a training, in plain values: its names, its limits, and what it already knows."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks import spool
from tasks.steps import write_json
from tasks.versioning import data_digest, file_md5, git_state

RUN_FILE, FACTS_FILE = "mlflow_run.json", "mlflow_facts.json"
KEY_LENGTH, VALUE_LENGTH = 250, 6000  # MLflow's limits for a param
UI_URL = "http://127.0.0.1:5000"  # where `mlflow ui` serves
WRITING = threading.Lock()  # held to change a run file that a thread writes to as well
TAGS_VARIABLE = "DETECTOR_RUN_TAGS"  # JSON: tags of the surrounding run, e.g. Prefect's, for the MLflow run


@dataclass(frozen=True)
class DataInput:
    """Data that a training or an evaluation read.

    Attributes:
        name: of the data set and its part.
        digest: DVC's md5 of the data set's manifest, or of its content where it has none.
        context: 'training' or 'validation'.
        source: JSON of where it lies and by which digests it is known.
    """

    name: str
    digest: str
    context: str
    source: str


@dataclass(frozen=True)
class Facts:
    """What a training is, as MLflow gets it; kept beside the checkpoints, so that it can be told later.

    Attributes:
        name: full config name.
        seed: of the training.
        key: of the train step.
        dataset: name of the data set (MLflow's experiment).
        data: digest of all data that was read.
        params: effective config values, from ``flatten``.
        text: the config as text.
        inputs: the data that was read.
    """

    name: str
    seed: int
    key: str
    dataset: str
    data: str
    params: Mapping[str, str]
    text: str
    inputs: tuple[DataInput, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> Facts | None:
        """The facts of the training in ``folder``, or None where there are none that can be read."""
        try:
            data = json.loads((folder / FACTS_FILE).read_text())
            return cls(**{**data, "inputs": tuple(DataInput(**found) for found in data["inputs"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, folder: Path) -> None:
        """Write the file whole."""
        write_json(folder / FACTS_FILE, asdict(self))


@dataclass
class RunFile:
    """Which MLflow run belongs to a training and what it was told (``mlflow_run.json``).

    One lies beside the checkpoints and moves with them; a copy beside ``model.pth`` names the run it is of.

    Attributes:
        key: of the train step.
        attempt: names one training; its run carries it as a tag, and a repeated training has another one.
        uri: of the store that has the run, without credentials.
        position: how far the training log was sent.
        system: bytes of the machine's measurements that were sent.
        sent: what -> digest of what was sent.
        tags: code and surroundings when the training started.
        status: how the training ended, in MLflow's words; empty while it runs, or when it was killed.
        ended: milliseconds since 1970.
        checkpoint: path, sha256, bytes and DVC's md5 of the result.
        began: milliseconds since 1970.
    """

    key: str = ""
    uri: str = ""
    experiment_id: str = ""
    run_id: str = ""
    position: spool.Position = field(default_factory=spool.Position)
    sent: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    attempt: str = ""
    system: int = 0
    status: str = ""
    ended: int = 0
    checkpoint: dict[str, str] = field(default_factory=dict)
    began: int = 0

    @classmethod
    def load(cls, folder: Path) -> RunFile:
        """The file of ``folder``, or an empty one."""
        try:
            data = json.loads((folder / RUN_FILE).read_text())
            return cls(**{**data, "position": spool.Position(**data["position"])})
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def save(self, folder: Path) -> None:
        """Write the file whole."""
        write_json(folder / RUN_FILE, asdict(self))

    @property
    def url(self) -> str:
        """The run's page on the tracking server, or in `mlflow ui` over a database file."""
        base = self.uri.rstrip("/") if urlsplit(self.uri).scheme in ("http", "https") else UI_URL
        return f"{base}/#/experiments/{self.experiment_id}/runs/{self.run_id}"


def begin(work_dir: Path, facts: Facts, tags: Mapping[str, str] | None = None) -> None:
    """Note, before MLflow is told anything, what a training is that starts or goes on.

    One that starts gets a name of its own, the attempt: the same step run again, although it was done, is
    another training and another run.
    """
    file = RunFile.load(work_dir)
    file = file if file.key == facts.key else RunFile(key=facts.key)
    file.attempt = file.attempt or uuid.uuid4().hex
    file.began = file.began or int(time.time() * 1000)
    file.tags = {**tags_now(), **(tags or {})}
    file.status, file.ended = "", 0
    facts.save(work_dir)
    file.save(work_dir)


def finished(work_dir: Path, checkpoint: Path, sha256: str) -> None:
    """Note the result of a training, and beside the result whose it is."""
    size, md5 = str(checkpoint.stat().st_size), file_md5(checkpoint) or ""
    with WRITING:
        file = RunFile.load(work_dir)
        file.checkpoint = {"path": str(checkpoint), "sha256": sha256, "bytes": size, "dvc_md5": md5}
        file.save(work_dir)
        file.save(checkpoint.parent)


def ended(work_dir: Path, status: str) -> None:
    """Note how a training ended: FINISHED, FAILED or KILLED."""
    with WRITING:
        file = RunFile.load(work_dir)
        file.status, file.ended = status, int(time.time() * 1000)
        file.save(work_dir)


def tell_copy(work_dir: Path, folder: Path) -> None:
    """Let the copy in ``folder`` know the run's id, if it is of the same training."""
    file, copy = RunFile.load(work_dir), RunFile.load(folder)
    if copy.attempt and copy.attempt == file.attempt and copy != file:
        file.save(folder)


def training_of(run_dir: Path) -> Path:
    """The folder of the training that made the checkpoint in ``run_dir``; ``run_dir`` itself without one."""
    attempt = RunFile.load(run_dir).attempt
    for name in ("train", "train.previous"):
        if attempt and RunFile.load(run_dir / name).attempt == attempt:
            return run_dir / name
    return run_dir


def git_tags() -> dict[str, str]:
    """The state of the code."""
    git = git_state()
    return {"git.commit": git.commit, "git.dirty": str(git.dirty).lower()} if git else {}


def tags_now() -> dict[str, str]:
    """What a run is tagged with: the code's state, the data's, the surrounding Prefect run or DVC stage."""
    tags = {**surrounding_tags(), **git_tags()}
    md5 = data_digest()
    if md5:
        tags["dvc.data_md5"] = md5
    if stage := os.environ.get("DVC_STAGE"):
        tags["dvc.stage"] = stage
    flow_run = tags.get("prefect.flow_run_id")
    if flow_run and (url := tags.get("prefect.url")):
        tags["mlflow.note.content"] = f"[Prefect flow run {flow_run}]({url})"
    return tags


def surrounding_tags() -> dict[str, str]:
    """Tags that the surrounding run, such as Prefect's, gave this process."""
    try:
        found = json.loads(os.environ.get(TAGS_VARIABLE) or "{}")
        return {str(key): str(value) for key, value in found.items()}
    except (ValueError, AttributeError):
        return {}


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """A nested config as MLflow params: dotted keys of allowed characters, texts within the limits."""
    found: dict[str, str] = {}
    for key, value in _leaves(config, ""):
        name = re.sub(r"[^\w\-./: ]", "_", key)[:KEY_LENGTH]
        found[name] = str(value)[:VALUE_LENGTH]
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    pairs: Iterator[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping) and value:
        pairs = iter(value.items())
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        pairs = iter(enumerate(value))
    if pairs is None:
        yield path, value
        return
    for key, item in pairs:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))


def metric_name(name: str) -> str:
    """A name that MLflow accepts for a metric."""
    return re.sub(r"[^\w\-./: ]", "_", name)[:KEY_LENGTH]
