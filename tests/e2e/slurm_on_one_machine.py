"""A real Slurm on this machine, of its own and gone afterwards: munged, slurmctld and slurmd in one folder.

Two partitions of one node: jobs of ``high`` push those of ``low`` off, which get 60 s and are queued again.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.e2e.runs_of_many import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue", "sinfo")
SETTINGS = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes={host} MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


class SlurmUnavailable(Exception):
    """Slurm cannot run here; says why."""


@contextmanager
def slurm() -> Iterator[Mapping[str, str]]:
    """The environment in which Slurm's commands reach the cluster of this machine.

    Raises:
        SlurmUnavailable: a program is missing, or does not start.
    """
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        raise SlurmUnavailable(f"found no {', '.join(missing)} (Debian: slurm-wlm and munge)")
    if os.geteuid() != 0:
        raise SlurmUnavailable("its daemons need root")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: socket names have 108 characters
    environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        _start(folder, environ)
        yield environ
    finally:
        _stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str | None:
    """Path of a program; daemons are often in a folder that is not searched."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin")


def _start(folder: Path, environ: Mapping[str, str]) -> None:
    """Key, settings, and the three daemons."""
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host = socket.gethostname().split(".")[0]
    ports = {"controller": free_port(), "daemon": free_port()}
    (folder / "slurm.conf").write_text(SETTINGS.format(host=host, folder=folder, **ports))
    folder.chmod(0o755)
    names = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    files = [f"--{option}={folder}/munge.{end}" for option, end in names.items()]
    _daemon([str(_program("munged")), "--force", f"--key-file={key}", *files], environ)
    _daemon([str(_program("slurmctld")), "-c"], environ)
    _daemon([str(_program("slurmd")), "-c"], environ)
    end = time.monotonic() + 60
    while _say(["sinfo", "--noheader", "--partition=low", "--format=%T"], environ).strip() != "idle":
        if time.monotonic() > end:
            logs = [(folder / f"{name}.log") for name in ("slurmctld", "slurmd")]
            last = [line for log in logs if log.exists() for line in log.read_text().splitlines()[-3:]]
            raise SlurmUnavailable(f"its node does not come up: {' | '.join(last)}")
        time.sleep(0.3)


def _daemon(command: list[str], environ: Mapping[str, str]) -> None:
    """Start a program that goes to the background by itself."""
    done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise SlurmUnavailable(f"{Path(command[0]).name}: {(done.stderr or done.stdout).strip()[-300:]}")


def _say(command: list[str], environ: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def _stop(folder: Path) -> None:
    """End the daemons that were started from this folder, and what they left."""
    ours = [process for process in psutil.process_iter(["cmdline", "environ"]) if _belongs(process, folder)]
    for process in ours:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(ours, timeout=10)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()


def _belongs(process: psutil.Process, folder: Path) -> bool:
    """Whether a process is the cluster's."""
    mentions = [*(process.info["cmdline"] or []), (process.info["environ"] or {}).get("SLURM_CONF", "")]
    return process.pid != os.getpid() and any(str(folder) in text for text in mentions)
