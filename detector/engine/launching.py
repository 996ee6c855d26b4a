"""Starts the processes of a run on this machine by torch's launcher, and says which one failed and how."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from detector.cores import cpu_count
from detector.engine import watchdog
from detector.engine.interrupts import REQUEUE, exit_code
from detector.errors import ConfigError, MachineError

#: seconds for the machines of a run to meet
MEET_WITHIN = 900
#: seconds for a checkpoint after a stop request; torch's own 30 are few for a slow disk
STOP_WITHIN = 120
#: errors of processes that suffered from another one's end
CONSEQUENCES = ("PeerError", "LostError")
STOPPED = (REQUEUE, *(exit_code(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)))


@dataclass(frozen=True)
class Job:
    """The processes of a run, as seen by one machine.

    Attributes:
        processes: on this machine.
        nodes: number of machines.
        node_rank: number of this one.
        address: of machine 0.
        port: on machine 0, where all processes meet.
        max_restarts: how often the processes start again after one of them failed.
    """

    processes: int
    nodes: int = 1
    node_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500
    max_restarts: int = 0

    @property
    def several(self) -> bool:
        """Whether anything is to be launched."""
        return self.processes * self.nodes > 1 or self.max_restarts > 0


def read_job(processes: int | None, *, max_restarts: int = 0, environ: Mapping[str, str] = os.environ) -> Job:
    """The run that ``--gpus`` and the reference's variables ask for.

    Args:
        processes: on this machine; None for 1.
        max_restarts: of the whole run.
        environ: NNODES (1), NODE_RANK (0), PORT (29500), MASTER_ADDR (127.0.0.1).

    Raises:
        ConfigError: a number is out of range.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"--gpus: found {processes}; expected a whole number above 0.")
    if max_restarts < 0:
        raise ConfigError(f"--max-restarts: found {max_restarts}; expected 0 or more.")
    if processes is None and not max_restarts:
        return Job(1)
    nodes = _number(environ, "NNODES", 1, range(1, 100_000))
    if nodes > 1 and "MASTER_ADDR" not in environ:
        raise ConfigError(
            f"MASTER_ADDR: found nothing in the environment, but NNODES is {nodes}; expected the address of "
            "the machine with NODE_RANK=0, the same on all machines."
        )
    return Job(
        processes=processes or 1,
        nodes=nodes,
        node_rank=_number(environ, "NODE_RANK", 0, range(nodes)),
        address=environ.get("MASTER_ADDR", "127.0.0.1"),
        port=_number(environ, "PORT", 29500, range(1, 65536)),
        max_restarts=max_restarts,
    )


def check_devices(device: str | None, gpu_ids: object) -> None:
    """Refuse one device for several processes.

    Raises:
        ConfigError: naming the argument.
    """
    if gpu_ids is not None or (device is not None and ":" in device):
        raise ConfigError(
            f"--gpus: found one device ({device or f'GPU {gpu_ids}'}) for several processes; expected none: "
            "each process takes the GPU of its number. Set CUDA_VISIBLE_DEVICES to choose among the GPUs."
        )


def launch(job: Job, arguments: Sequence[str], *, device: str | None = None) -> int:
    """Run ``detector <arguments> --launcher pytorch`` in all processes of this machine, to their end.

    Args:
        job: what to start.
        arguments: of the command.
        device: what the run was asked to run on; 'cpu' for processes without a GPU.

    Returns:
        0, the exit code of a run that stopped on request (143, 130, 75), or that of the process that failed.

    Raises:
        MachineError: too few GPUs, a taken port, or the machines do not meet.
    """
    _check_port(job)
    variables = _threads(job, on_cpu=not torch.cuda.is_available() or str(device).startswith("cpu"))
    settings = LaunchConfig(
        min_nodes=job.nodes,
        max_nodes=job.nodes,
        nproc_per_node=job.processes,
        run_id=f"detector_{job.port}",
        max_restarts=job.max_restarts,
        **_meeting(job),  # type: ignore[arg-type]
        **_stopping(),  # type: ignore[arg-type]
    )
    command = ["-u", "-m", "detector", *arguments, "--launcher", "pytorch"]
    with _environment(variables):
        try:
            elastic_launch(settings, sys.executable)(*command)
        except SignalException as stopped:
            return exit_code(stopped.sigval)
        except ChildFailedError as failed:
            failures = ordered(failed.failures)
            if not all(failure.exitcode in STOPPED for _, failure in failures):
                lines = report(failures)
                sys.stderr.writelines(f"{line}\n" for line in lines)
                if job.nodes > 1 and not last_words(failures[0][1]).startswith(CONSEQUENCES):
                    watchdog.tell(job.address, job.port, job.max_restarts, lines[0])
            return _code(failures[0][1])
        except (DistNetworkError, DistStoreError, RendezvousError) as error:
            raise _not_met(job, error) from error
    return 0


def report(failures: Sequence[tuple[int, ProcessFailure]]) -> list[str]:
    """One line per failed process: rank, machine, pid, how it ended and what it said last."""
    host = socket.gethostname()
    lines = []
    for rank, failure in failures:
        if failure.exitcode < 0:
            how = f"was killed by {failure.signal_name()}"
            if failure.exitcode == -signal.SIGKILL:
                how += " (kill -9, or the machine had no memory left)"
        else:
            how = f"ended with exit code {failure.exitcode}"
        said = last_words(failure)
        lines.append(f"rank {rank} (host {host}, pid {failure.pid}) {how}{f': {said}' if said else ''}")
    return lines


def last_words(failure: ProcessFailure) -> str:
    """The error that a process left for its launcher; empty if it left none."""
    message = failure.error_file_data.get("message")
    text = message.get("message", "") if isinstance(message, dict) else ""
    return str(text).strip()


def ordered(failures: Mapping[int, ProcessFailure]) -> list[tuple[int, ProcessFailure]]:
    """Failures with the likely cause first: signals, errors, lost connections, who was ended for them."""

    def place(item: tuple[int, ProcessFailure]) -> tuple[int, float, int]:
        rank, failure = item
        if failure.exitcode == -signal.SIGTERM:  # the launcher sends it to those who are left
            kind = 3
        elif last_words(failure).startswith(CONSEQUENCES):
            kind = 2
        else:
            kind = 0 if failure.exitcode < 0 else 1
        return kind, failure.timestamp, rank

    return sorted(failures.items(), key=place)


def _meeting(job: Job) -> dict[str, object]:
    """How the machines find each other; restarts of several need torch's dynamic way, which regroups them."""
    endpoint = f"{job.address}:{job.port}"
    if job.nodes > 1 and job.max_restarts:
        first = {"is_host": job.node_rank == 0}
        return {"rdzv_backend": "c10d", "rdzv_endpoint": endpoint, "rdzv_configs": first}
    place = {"rank": job.node_rank, "timeout": MEET_WITHIN}
    return {"rdzv_backend": "static", "rdzv_endpoint": endpoint, "rdzv_configs": place}


def _stopping() -> dict[str, object]:
    """Signals passed on to the processes and, where this torch has the setting, the time they get."""
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    signals = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGUSR1"]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup stays nohup
        signals.append("SIGHUP")
    wanted: dict[str, object] = {"signals_to_handle": ",".join(signals)}
    if "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" not in os.environ:
        wanted["shutdown_timeout"] = STOP_WITHIN
    return {name: value for name, value in wanted.items() if name in known}


def _threads(job: Job, *, on_cpu: bool) -> dict[str, str]:
    """Threads for each process, unless the user chose; says how the processes run.

    Raises:
        MachineError: fewer GPUs than processes.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cpu_count() // job.processes)))
    if on_cpu:
        sys.stderr.write(f"{job.processes} processes on the CPU (gloo), {threads} threads each\n")
    elif job.processes > torch.cuda.device_count():
        raise MachineError(
            f"--gpus: found {job.processes}; this machine has {torch.cuda.device_count()} GPUs. Give at most "
            "as many, or --device cpu."
        )
    return {"OMP_NUM_THREADS": threads}


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes started within."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _check_port(job: Job) -> None:
    """Say now what torch would say in a hundred lines.

    Raises:
        MachineError: the port is taken.
    """
    if job.node_rank != 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", job.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise _taken(job) from error


def _taken(job: Job) -> MachineError:
    return MachineError(
        f"PORT: {job.port} is taken on this machine, by another run perhaps; expected a free one. Set it, "
        f"for example PORT={job.port + 1 if job.port < 65535 else 29500}, on all machines of the run."
    )


def _not_met(job: Job, error: Exception) -> MachineError:
    if "EADDRINUSE" in str(error) or "address already in use" in str(error):
        return _taken(job)
    return MachineError(
        f"machine {job.node_rank} of {job.nodes} did not meet the others at {job.address}:{job.port} within "
        f"{MEET_WITHIN} s ({str(error).splitlines()[0]}). Start the same command on each machine with its "
        "own NODE_RANK and the same NNODES, MASTER_ADDR and PORT."
    )


def _code(failure: ProcessFailure) -> int:
    return 128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode


def _number(environ: Mapping[str, str], name: str, default: int, accepted: range) -> int:
    """A whole number of the environment."""
    text = environ.get(name, str(default))
    if not text.isdecimal() or int(text) not in accepted:
        raise ConfigError(
            f"{name}: found {text!r} in the environment; expected a whole number from {accepted[0]} to "
            f"{accepted[-1]}."
        )
    return int(text)
