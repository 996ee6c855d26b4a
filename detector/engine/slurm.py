"""Slurm: the ranks of a job, the srun line that starts one, and its way back into the queue."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from detector.engine.interrupts import REQUEUE, Interrupted
from detector.errors import ConfigError, MachineError

#: ports of jobs that name none: derived from the job's number, so that all tasks agree without asking anyone
FIRST_PORT, PORTS = 15000, 14000
#: how long the controller may take
ANSWER_WITHIN = 20.0

logger = logging.getLogger(__name__)


def step_tasks(environ: Mapping[str, str]) -> int:
    """Number of tasks that srun started with this one; 1 outside srun, as in a batch script."""
    return int(environ.get("SLURM_STEP_NUM_TASKS", "1"))


def rank_environment(environ: Mapping[str, str], port: int | None = None) -> dict[str, str]:
    """What torch reads (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), from what srun sets.

    Args:
        environ: of this task.
        port: the config's ``dist_params.port``; else MASTER_PORT; else one from the job's number.

    Raises:
        ConfigError: srun did not start this process.
    """
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    missing = [name for name in names if name not in environ]
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    address = environ.get("MASTER_ADDR") or (first_host(nodes) if nodes else None)
    if missing or address is None:
        raise ConfigError(
            f"--launcher slurm: the environment lacks {', '.join(missing) or 'SLURM_JOB_NODELIST'}. Start it "
            "as: detector slurm-train PARTITION JOB CONFIG WORK_DIR, or by srun."
        )
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ.get("SLURM_STEP_NUM_TASKS") or environ["SLURM_NTASKS"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port or environ.get("MASTER_PORT") or derived_port(environ)),
    }


def derived_port(environ: Mapping[str, str]) -> int:
    """Port of a job that names none, the same on all its machines.

    The reference looks for a free port on each machine by itself, and so the machines may disagree.
    """
    job, step = (int(environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return FIRST_PORT + (job + 1009 * step) % PORTS


def first_host(nodes: str) -> str:
    """First host of a list as Slurm writes it: 'gpu[03-07,9],cpu1' is 'gpu03'."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes.strip())
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group(0)) if first else ""


def srun_line(
    partition: str, job: str, command: Sequence[str], *, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """The srun command that runs ``detector <command>`` on GPUS processes of one GPU each.

    Args:
        partition: where to run.
        job: its name.
        command: arguments of ``detector``.
        environ: GPUS (8), GPUS_PER_NODE (8; 0 asks for no GPUs), CPUS_PER_TASK (5), SRUN_ARGS ('').

    Raises:
        ConfigError: one of them is not a number in range.
    """
    gpus = _number(environ, "GPUS", 8, least=1)
    per_node = min(_number(environ, "GPUS_PER_NODE", 8, least=0), gpus)
    on_gpus = [f"--gres=gpu:{per_node}"] if per_node else []
    each_node = [f"--ntasks-per-node={per_node}"] if per_node else []
    return [
        "srun",
        f"--partition={partition}",
        f"--job-name={job}",
        *on_gpus,
        f"--ntasks={gpus}",
        *each_node,
        f"--cpus-per-task={_number(environ, 'CPUS_PER_TASK', 5, least=1)}",
        "--kill-on-bad-exit=1",
        *shlex.split(environ.get("SRUN_ARGS", "")),
        sys.executable,
        "-u",
        "-m",
        "detector",
        *command,
    ]


def run_line(line: Sequence[str], *, dry_run: bool) -> int:
    """Print an srun command and become it; with ``dry_run`` only print it.

    Raises:
        MachineError: this machine has no srun.
    """
    sys.stdout.write(f"{shlex.join(line)}\n")
    sys.stdout.flush()
    if dry_run:
        return 0
    try:
        os.execvp(line[0], list(line))  # signals go to srun itself, and its exit code is ours
    except FileNotFoundError:
        raise MachineError(
            "srun: found no such program; expected Slurm's. Run this on a machine of the cluster, or train "
            "without Slurm: detector train CONFIG --gpus N"
        ) from None


def exit_code(stopped: Interrupted, environ: Mapping[str, str], *, first: bool) -> int:
    """Exit code of a task that stopped with a checkpoint; the first task sends the job back into the queue.

    A job that its user cancelled stays so, as does one whose time is over. Batch jobs alone can go back.

    Args:
        stopped: how it stopped.
        environ: of this task.
        first: whether this is task 0.

    Returns:
        75 (try again later) for a job that may continue, else 128 + signal.
    """
    state = job_facts(environ).get("JobState", "RUNNING") if "SLURM_JOB_ID" in environ else ""
    if state.split()[0:1] != ["RUNNING"] or stopped.signum == signal.SIGINT:
        return stopped.exit_code
    if first:
        sys.stderr.write(f"{_requeue(environ)}\n")
    return REQUEUE


def job_facts(environ: Mapping[str, str]) -> dict[str, str]:
    """What the controller knows of this job; empty when it does not answer."""
    answer = _scontrol("show", "job", "--oneliner", environ["SLURM_JOB_ID"])
    pairs = (part.partition("=") for part in answer.split()) if answer else ()
    return {key: value for key, _, value in pairs}


def _requeue(environ: Mapping[str, str]) -> str:
    """Ask for this job to be queued again; returns what came of it."""
    job = environ["SLURM_JOB_ID"]
    if job_facts(environ).get("BatchFlag", "0") == "0":
        return f"job {job} is no batch job and cannot be queued again: run the same command to continue"
    if _scontrol("requeue", job) is None:
        return f"job {job} could not be queued again: submit it again to continue"
    return f"job {job} is queued again and will continue from its checkpoint"


def _scontrol(*arguments: str) -> str | None:
    """Output of Slurm's control program, None when it fails."""
    try:
        done = subprocess.run(
            ["scontrol", *arguments], capture_output=True, text=True, timeout=ANSWER_WITHIN, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        logger.warning("scontrol %s: %s", " ".join(arguments), str(said).strip())
        return None
    return done.stdout


def _number(environ: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    """A whole number of the environment."""
    text = environ.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(
            f"{name}: found {text!r} in the environment; expected a whole number from {least} on."
        )
    return int(text)


def checked_config(path: str) -> str:
    """A config's argument, refused before the job waits in the queue if no config answers to it."""
    from detector.config import load_config

    load_config(path, {})
    return str(Path(path))
