"""A run's checkpoint files: names, ``latest.pth``, the best one, how many stay, which one to resume from."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.checkpoint.files import load_checkpoint, manifest_path, save_checkpoint, verify_checkpoint
from detector.errors import CheckpointError

LATEST = "latest.pth"
BEST_PREFIX = "best_"
FORMAT_VERSION = "2.28.2"  # the MMDetection release whose checkpoint layout the files follow


@dataclass
class RunCheckpoints:
    """Writes the checkpoints of one run into its work_dir.

    Attributes:
        work_dir: where they go.
        max_keep: regular checkpoints kept, -1 for all.
        messages: the reference's ``hook_msgs``: last_ckpt, best_score, best_ckpt.
    """

    work_dir: Path
    max_keep: int = -1
    messages: dict[str, Any] = field(default_factory=dict)

    def save(self, name: str, payload: Mapping[str, Any]) -> Path:
        """Write ``<name>`` whole, point ``latest.pth`` at it, drop the oldest beyond ``max_keep``."""
        path = self.work_dir / name
        self.messages["last_ckpt"] = str(path)
        save_checkpoint(path, self._with_messages(payload))
        point_at(self.work_dir / LATEST, path)
        self._prune(keep=path)
        return path

    def save_best(self, metric: str, value: float, name: str, payload: Mapping[str, Any]) -> Path:
        """Write ``best_<metric>_<name>`` and delete the best one before it."""
        path = self.work_dir / f"{BEST_PREFIX}{metric}_{name}"
        previous = self.best
        self.messages.update(best_score=float(value), best_ckpt=str(path))
        save_checkpoint(path, self._with_messages(payload))
        if previous is not None and previous != path:
            remove(previous)
        return path

    @property
    def best(self) -> Path | None:
        """The best checkpoint so far, looked for in this work_dir even if the folder was moved."""
        stored = self.messages.get("best_ckpt")
        path = self.work_dir / Path(stored).name if stored else None
        return path if path is not None and path.is_file() else None

    @property
    def best_score(self) -> float | None:
        """Its score."""
        score = self.messages.get("best_score")
        return None if score is None else float(score)

    def _with_messages(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        meta = {**payload["meta"], "time": time.asctime(), "hook_msgs": dict(self.messages)}
        return {**payload, "meta": meta}

    def _prune(self, keep: Path) -> None:
        """Delete the oldest regular checkpoints; stopped runs' files go as soon as a newer one stands."""
        regular = regular_checkpoints(self.work_dir)
        by_age = sorted(
            (path for path in regular if path != keep), key=lambda path: path.stat().st_mtime_ns, reverse=True
        )
        stopped = [path for path in by_age if path.name.startswith("stopped_")]
        beyond = by_age[max(self.max_keep - 1, 0) :] if self.max_keep > 0 else []
        for path in {*stopped, *beyond}:
            remove(path)


def regular_checkpoints(work_dir: Path) -> list[Path]:
    """The run's own checkpoints, without ``latest`` and the best ones."""
    prefixes = ("epoch_", "iter_", "stopped_")
    return [
        path for path in work_dir.glob("*.pth") if path.name.startswith(prefixes) and not path.is_symlink()
    ]


def find_resume_point(work_dir: Path) -> tuple[Path | None, list[Path]]:
    """The checkpoint of ``work_dir`` that is furthest on and intact, and the damaged ones passed over.

    Files are ordered by the number in their names, epochs against iterations by what the files say; the
    time of writing decides only between equals, since copying changes it.

    Returns:
        (path or None, damaged files met on the way).
    """
    damaged: list[Path] = []
    intact: list[Path] = []
    files = regular_checkpoints(work_dir)
    for counts_epochs in (True, False):
        kind = [path for path in files if path.name.startswith("epoch_") is counts_epochs]
        for path in sorted(kind, key=_age, reverse=True):
            if is_intact(path):
                intact.append(path)
                break
            damaged.append(path)
    if len(intact) < 2:
        return (intact[0] if intact else None), damaged
    return max(intact, key=lambda path: (_iteration(path), path.stat().st_mtime_ns)), damaged


def is_intact(path: Path) -> bool:
    """Whether a checkpoint matches its digest or, without one (the reference writes none), can be read."""
    if manifest_path(path).is_file():
        return verify_checkpoint(path)
    try:
        load_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _age(path: Path) -> tuple[int, int]:
    """(number in the name, time of writing)."""
    number = path.stem.rpartition("_")[2]
    return (int(number) if number.isdecimal() else -1), path.stat().st_mtime_ns


def _iteration(path: Path) -> int:
    """Finished iterations by the file's ``meta``."""
    return int(load_checkpoint(path).meta.get("iter", 0))


def point_at(link: Path, target: Path) -> None:
    """Make ``link`` a relative symlink to ``target`` in one step.

    Raises:
        CheckpointError: a folder is in the way.
    """
    if link.is_dir() and not link.is_symlink():
        raise CheckpointError(
            f"{link}: found a folder; expected a link to the newest checkpoint. Remove the folder."
        )
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    temporary.replace(link)


def remove(path: Path) -> None:
    """Delete a checkpoint and its manifest; missing files are fine."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
