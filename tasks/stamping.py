"""What the lineage of a step's files says of the pipeline: the step's key, the runs around it, its data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detector.lineage.data import DATA_VARIABLES
from detector.lineage.stamp import KEY, collecting
from detector.lineage.surroundings import RUN_VARIABLES
from tasks.request import Request
from tasks.tracked_run import RUN_FILE, RunFile, surrounding_tags
from tasks.versioning import data_digest


def variables(key: str, folder: Path, data: str) -> dict[str, str]:
    """The environment by which whatever writes files knows the runs around it.

    Args:
        key: the step's.
        folder: where ``mlflow_run.json`` lies, or will: MLflow gives the id after a training has begun.
        data: digest of the data that is read.
    """
    found = {
        RUN_VARIABLES["step"]: key,
        RUN_VARIABLES["mlflow"]: f"@{(folder / RUN_FILE).absolute()}",
        RUN_VARIABLES["prefect"]: surrounding_tags().get("prefect.flow_run_id", ""),
        DATA_VARIABLES["digest"]: data,
        DATA_VARIABLES["dvc_md5"]: data_digest() or "",
    }
    return {name: value for name, value in found.items() if value}


@contextmanager
def stamping(step: str, key: str, request: Request, data: str) -> Iterator[None]:
    """Stamp the files that a step writes in this process."""
    from tasks.registry import command  # it knows the steps, and they know this

    added = variables(key, request.checkpoint.parent, data)
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        with collecting(command=["python", *command(step, request)[1:]]):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def with_run(meta: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A checkpoint's meta whose stamp names the MLflow run, if that got its id after the file was written."""
    stamp, run = meta.get(KEY), RunFile.load(folder).run_id
    if not isinstance(stamp, dict) or not stamp or not run:
        return dict(meta)
    return {**meta, KEY: {**stamp, "runs": {"mlflow": run, **(stamp.get("runs") or {})}}}
