"""What surrounds a run: the commit of the code, versions that change numbers, ids of the runs around it."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
NUMBERS_DEPEND_ON = (
    *("torch", "torchvision", "numpy", "opencv-python", "opencv-python-headless", "mmcv-lite"),
    *("pycocotools", "hotcoco", "cityscapesScripts"),
)
#: name in the stamp -> environment variable that the pipeline sets. '@FILE' stands for the ``run_id`` in a
#: json file, since a tracker gives its id after the training has begun
RUN_VARIABLES = {
    "mlflow": "DETECTOR_MLFLOW_RUN",
    "prefect": "DETECTOR_PREFECT_RUN",
    "step": "DETECTOR_STEP_KEY",
}


def code_state(config_folder: Path | None = None) -> dict[str, Any] | None:
    """Commit of the repository that holds this package, else of the one that holds the config.

    Returns:
        commit; dirty: whether files that git knows differ from it, or the package has new ones; of: 'package'
        or 'config'; None without git.
    """
    if found := _state(PACKAGE, PACKAGE / "__init__.py"):
        return {**found, "of": "package"}
    if config_folder is not None and (found := _state(config_folder, None)):
        return {**found, "of": "config"}
    return None


def repository() -> Path | None:
    """Top folder of the repository that holds this package; None for an installed one."""
    if git(PACKAGE, "ls-files", "--error-unmatch", str(PACKAGE / "__init__.py")) is None:
        return None
    top = git(PACKAGE, "rev-parse", "--show-toplevel")
    return Path(top) if top else None


def _state(folder: Path, member: Path | None) -> dict[str, Any] | None:
    """Commit and whether the tree differs; None where git does not know ``member``."""
    if member is not None and git(folder, "ls-files", "--error-unmatch", str(member)) is None:
        return None  # such as a package in a virtual environment inside another repository
    commit = git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = git(folder, "status", "--porcelain", "--untracked-files=no")
    new = git(folder, "status", "--porcelain", "--untracked-files=all", "--", str(folder))
    return {"commit": commit, "dirty": bool(changed or new)}


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None when there is no git, no repository, or it fails."""
    command = ["git", "-C", str(folder), *arguments]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # a look must not take the index's lock
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=quiet)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def versions() -> dict[str, str]:
    """Python and the installed distributions whose version changes numbers; nothing is imported."""
    from detector import __version__

    found = {"python": platform.python_version(), "detector": __version__}
    for name in NUMBERS_DEPEND_ON:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def run_ids(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ids of the surrounding MLflow run, Prefect run and pipeline step, as far as they are known by now."""
    values = os.environ if environ is None else environ
    found = {name: _run_id(values.get(variable, "")) for name, variable in RUN_VARIABLES.items()}
    return {name: value for name, value in found.items() if value}


def _run_id(value: str) -> str:
    if not value.startswith("@"):
        return value
    try:
        return str(json.loads(Path(value[1:]).read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
