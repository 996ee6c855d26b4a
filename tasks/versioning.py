"""What DVC and git know about this folder, read from their files; nothing here runs DVC or takes its lock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detector.lineage.surroundings import git

DATA_FILE, LOCK_FILE = Path("data.dvc"), Path("dvc.lock")


@dataclass(frozen=True)
class GitState:
    """The commit the working tree stands on, and whether tracked files differ from it."""

    commit: str
    dirty: bool


def data_digest() -> str | None:
    """DVC's md5 of the data that ``data.dvc`` versions, or None when there is none."""
    outs = _load(DATA_FILE).get("outs") or [{}]
    md5 = outs[0].get("md5") if isinstance(outs[0], dict) else None
    return str(md5) if md5 else None


def file_md5(path: Path) -> str | None:
    """The md5 by which DVC knows a file, or None when there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError:
        return None


def tracked() -> Callable[[str], bool]:
    """Whether a path is, or lies below, one that ``dvc.lock`` or a ``.dvc`` file refers to."""
    stages = _load(LOCK_FILE).get("stages") or {}
    entries = [
        entry for stage in stages.values() for kind in ("outs", "deps") for entry in stage.get(kind) or ()
    ]
    names = {str(entry["path"]) for entry in entries if isinstance(entry, dict) and "path" in entry}
    for file in [*Path().glob("*.dvc"), *Path("data").glob("*.dvc")]:
        outs = _load(file).get("outs") or ()
        names.update((file.parent / out["path"]).as_posix() for out in outs if isinstance(out, dict))

    def is_tracked(path: str) -> bool:
        return path in names or any(parent.as_posix() in names for parent in Path(path).parents)

    return is_tracked


def git_state() -> GitState | None:
    """The state of the git repository around the working directory, or None outside of one."""
    here = Path()
    commit = git(here, "rev-parse", "HEAD")
    if not commit:
        return None
    return GitState(commit=commit, dirty=bool(git(here, "status", "--porcelain", "--untracked-files=no")))


def _load(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}
