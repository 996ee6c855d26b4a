"""What MLflow is told about a training, in plain values: its names, its limits, and what it already knows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks import spool
from tasks.steps import write_json
from tasks.versioning import data_digest, git_state

RUN_FILE = "mlflow_run.json"
KEY_LENGTH, VALUE_LENGTH = 250, 6000  # MLflow's limits for a param
UI_URL = "http://127.0.0.1:5000"  # where `mlflow ui` serves
TAGS_VARIABLE = "DETECTOR_RUN_TAGS"  # JSON: tags of the surrounding run, e.g. Prefect's, for the MLflow run


@dataclass(frozen=True)
class Facts:
    """What a training is, as MLflow gets it.

    Attributes:
        name: full config name.
        seed: of the training.
        key: of the train step; another key is another MLflow run.
        dataset: name of the data set (MLflow's experiment).
        data: digest of all data that was read.
        config: effective config values.
        text: the config as text.
    """

    name: str
    seed: int
    key: str
    dataset: str
    data: str
    config: Mapping[str, Any]
    text: str


@dataclass
class RunFile:
    """Which MLflow run belongs to a training and what it was told (``mlflow_run.json``).

    One lies beside the checkpoints and moves with them; a copy beside ``model.pth`` names the run it is of.
    """

    key: str = ""
    uri: str = ""
    experiment_id: str = ""
    run_id: str = ""
    position: spool.Position = field(default_factory=spool.Position)
    sent: dict[str, str] = field(default_factory=dict)  # what -> digest of what was sent
    tags: dict[str, str] = field(default_factory=dict)  # code and surroundings when the training started

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
        """The run's page in `mlflow ui`."""
        return f"{UI_URL}/#/experiments/{self.experiment_id}/runs/{self.run_id}"


def begin(work_dir: Path, key: str, tags: Mapping[str, str] | None = None) -> None:
    """Note, before MLflow is told anything, what surrounds a training that starts or goes on."""
    file = RunFile.load(work_dir)
    file = file if file.key == key else RunFile(key=key)
    file.tags = {**tags_now(), **(tags or {})}
    file.save(work_dir)


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
