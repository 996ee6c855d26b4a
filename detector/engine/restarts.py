"""Runs that a launcher or Slurm starts again: where they begin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from detector.engine.checkpoints import find_resume_point, regular_checkpoints
from detector.errors import ConfigError


def check_restarts(max_restarts: int, work_dir: Path, *, auto_resume: bool) -> None:
    """Refuse restarts in a folder with an earlier run's checkpoints: a restart would continue that run.

    Raises:
        ConfigError: naming one of them.
    """
    if max_restarts and not auto_resume and (found := regular_checkpoints(work_dir)):
        raise ConfigError(
            f"--max-restarts: found {found[0]} of an earlier run; a restart continues from the newest "
            "checkpoint of its work_dir. Give --auto-resume to continue that run, or another --work-dir."
        )


def restarts(environ: Mapping[str, str] = os.environ) -> int:
    """How often the launcher or Slurm has started this run again."""
    return max(int(environ.get(name, "0")) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def resume_choice(
    work_dir: Path, resume_from: str | None, *, auto_resume: bool, environ: Mapping[str, str] = os.environ
) -> tuple[str | None, bool]:
    """Where a process of the run begins: a restarted run at its own newest checkpoint, if it has one.

    Returns:
        (resume_from, auto_resume) for ``train``.
    """
    if not restarts(environ):
        return resume_from, auto_resume
    if resume_from is not None and find_resume_point(work_dir)[0] is None:
        return resume_from, False
    return None, True
