"""Trained models as versions in MLflow's registry: by reference, the best of a family under an alias.

A version holds no weights: its tags say where the checkpoint lies and by which sha256 and size it is known.
The file of a version with an alias has a second name in ``runs/.models``, a hard link that takes no room, so
that it is still there when a later training of the same config and seed replaces the first.
``best`` is the best of the family, ``best-<data set>`` the best measured on that data set.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.errors import CheckpointError
from tasks.digests import sha256_file
from tasks.request import RUNS_ROOT
from tasks.steps import Log, locked
from tasks.tracking import store

if TYPE_CHECKING:
    from tasks.tracking.session import Session

ALIAS = "best"
URI = re.compile(r"models:/+([^/@]+)(?:@([^/@]+)|/(\d+))")
KEPT = RUNS_ROOT / ".models"
REFERENCE = "checkpoint.json"  # the one file of a logged model


@dataclass(frozen=True)
class MeasuredModel:
    """A checkpoint and what one evaluation says of it; every value is a text, as tags are.

    Attributes:
        family: name of the registered model.
        config: full config name.
        dataset: the data set it was measured on.
        data: digest of the validation data.
        metric: name of the number that counts; more is better.
        value: that number.
        path: of the checkpoint.
        project: folder that ``path`` is relative to.
        sha256: of the checkpoint.
        bytes: size of the checkpoint.
        seed: of the training.
        commit: of the code.
    """

    family: str
    config: str
    dataset: str
    data: str
    metric: str
    value: str
    path: str
    project: str
    sha256: str
    bytes: str
    seed: str
    commit: str


def register(session: Session, model: MeasuredModel, log: Log) -> None:
    """Make a version of the model from a checkpoint, once, and give the best one its aliases."""
    client = session.client
    with locked("mlflow", lambda text: None):
        _ensure_model(client, model.family)
        versions = client.search_model_versions(f"name = '{model.family}'", max_results=1000)
        same = [one for one in versions if all(one.tags.get(k) == v for k, v in _identity(model).items())]
        version = same[0] if same else _create(session, model)
        for alias in (ALIAS, f"{ALIAS}-{model.dataset}"):
            holder = _holder(client, model.family, alias)
            if holder is None or (
                holder.version != version.version and outdoes(model, holder.tags, overall=alias == ALIAS)
            ):
                client.set_registered_model_alias(model.family, alias, version.version)
                log(
                    f"MLflow: models:/{model.family}@{alias} is now version {version.version}, "
                    f"{model.metric} {float(model.value):.4f} on {model.dataset}"
                )
        _keep(client, model.family, [*versions, version])


def _keep(client: Any, family: str, versions: Sequence[Any]) -> None:
    """Give the files of the versions with an alias their second names, and take those of the others away."""
    holders = {str(number) for number in client.get_registered_model(family).aliases.values()}
    tags = {str(one.version): one.tags for one in versions if "sha256" in one.tags}
    wanted = {one["sha256"] for number, one in tags.items() if number in holders}
    for one in tags.values():
        kept, path = kept_as(one), Path(one["project"]) / one["path"]
        if one["sha256"] not in wanted:
            kept.unlink(missing_ok=True)
        elif not kept.exists() and path.is_file() and sha256_file(path) == one["sha256"]:
            with suppress(OSError):  # a file system without hard links: the first name has to do
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.hardlink_to(path)


def kept_as(tags: Mapping[str, str]) -> Path:
    """The second name of a checkpoint, in its project."""
    return Path(tags.get("project", "")) / KEPT / f"{tags.get('sha256', '')[:32]}.pth"


def outdoes(model: MeasuredModel, holder: Mapping[str, str], *, overall: bool) -> bool:
    """Whether a checkpoint takes an alias from the version that has it.

    On the same data and metric the better one has it. Numbers on other data cannot be compared: then the
    newer one has it if the data set is the same, and the holder keeps it if it is another.
    """
    if holder.get("dataset") != model.dataset:
        return not overall
    if (holder.get("data"), holder.get("metric")) != (model.data, model.metric):
        return True
    try:
        return float(model.value) > float(holder.get("value", "-inf"))
    except ValueError:
        return True


def _identity(model: MeasuredModel) -> dict[str, str]:
    return {"sha256": model.sha256, "data": model.data, "metric": model.metric, "value": model.value}


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name, description="Checkpoints by reference; the tags say where.")


def _holder(client: Any, name: str, alias: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _create(session: Session, model: MeasuredModel) -> Any:
    """A logged model of the run, which MLflow shows with its metric and data, and a version made from it."""
    from mlflow.entities import LoggedModelOutput, Metric

    client, run = session.client, session.file
    tags = {key: value for key, value in asdict(model).items() if value}
    logged = client.create_logged_model(
        run.experiment_id, name=f"{model.config}-seed{model.seed}", source_run_id=run.run_id, tags=tags,
        model_type="detector",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / REFERENCE
        path.write_text(json.dumps(tags, indent=1) + "\n")
        client.log_model_artifact(logged.model_id, str(path))
    number = Metric(
        f"model/{model.metric}", float(model.value), logged.creation_timestamp, 0, model_id=logged.model_id,
        dataset_name=model.dataset, dataset_digest=model.data[:36], run_id=run.run_id,
    )  # fmt: skip
    client.log_batch(run.run_id, metrics=[number])
    client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, "READY")
    return client.create_model_version(
        model.family, f"models:/{logged.model_id}", run_id=run.run_id, tags=tags, model_id=logged.model_id
    )


def resolve(uri: str) -> Path:
    """The checkpoint of ``models:/<family>@<alias>`` or ``models:/<family>/<version>``, its sha256 checked.

    Raises:
        CheckpointError: there is no such model, or its file is gone or is not the registered one any more.
    """
    found = URI.fullmatch(uri)
    if found is None:
        raise CheckpointError(
            f"{uri}: no name of a registered model; expected models:/<family>@<alias> or "
            "models:/<family>/<version>, such as models:/mask_rcnn@best."
        )
    name, alias, number = found.groups()
    version = _version(uri, name, alias, number)
    label = f"{uri} is version {version.version} of {name}"
    path = _file(version.tags)
    if path is None:
        where = version.tags.get("path", "(no path)")
        raise CheckpointError(
            f"{label}: found no file {where} in {version.tags.get('project', '?')} or {Path.cwd()}; "
            f"expected the checkpoint of {version.tags.get('config', '?')}, sha256 {_short(version.tags)}. "
            "Move it back, train it again, or choose another version."
        )
    if sha256_file(path) != version.tags.get("sha256"):
        raise CheckpointError(
            f"{label}: {path} was changed since: its sha256 is {sha256_file(path)[:16]}…, expected "
            f"{_short(version.tags)}. A later training of the same config and seed replaces the file: "
            "choose the version that was made from it, or restore the file."
        )
    return path


def _short(tags: Mapping[str, str]) -> str:
    return f"{tags.get('sha256', '?')[:16]}…"


def _file(tags: Mapping[str, str]) -> Path | None:
    """Where the checkpoint lies: under its second name, or its first one, in its project or in this one."""
    given = Path(tags.get("path", ""))
    places = [kept_as(tags), Path(tags.get("project", "")) / given, Path.cwd() / given]
    return next((place for place in places if place.is_file()), None)


def _version(uri: str, name: str, alias: str | None, number: str | None) -> Any:
    if store.is_local() and not (Path.cwd() / "mlflow.db").is_file():
        raise CheckpointError(
            f"{uri}: found no mlflow.db in {Path.cwd()}; expected the project's folder. Change to it, or set "
            "MLFLOW_TRACKING_URI to the store that has the model."
        )
    client = store.client()
    from mlflow.exceptions import MlflowException

    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, str(number))
    except MlflowException as error:
        raise CheckpointError(
            f"{uri}: {store.described(error)} (store {store.shown_uri()}). Evaluate a model of this family "
            "first, as `python -m tasks evaluate` does, or correct the name; `mlflow ui` lists the models."
        ) from error
