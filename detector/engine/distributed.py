"""The few facts about other processes that a run needs; all of them also work in a single process."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psutil
import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from detector.engine import watchdog
from detector.engine.launchers import join_environment
from detector.errors import DetectorError, MachineError

#: how gloo words the loss of a connection
LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Read error")


class PeerError(DetectorError):
    """The connection to another process broke; that process's own message says why."""


def active() -> bool:
    """Whether a process group runs."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 when alone."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Number of processes, 1 when alone."""
    return dist.get_world_size() if active() else 1


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def barrier() -> None:
    """Wait for all processes."""
    if active():
        dist.barrier()


def reduce_mean(values: Tensor) -> Tensor:
    """Mean of ``values`` over all processes; a new tensor."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def broadcast_int(value: int, device: torch.device) -> int:
    """The value of process 0."""
    if world_size() == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.int64, device=device)
    dist.broadcast(tensor, src=0)
    return int(tensor.item())


def broadcast_text(text: str) -> str:
    """The text of process 0."""
    if world_size() == 1:
        return text
    box = [text]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def resolve_device(device: str | None) -> torch.device:
    """The device to run on: the one asked for, else this process's GPU, else the CPU.

    'cuda' without a number is this process's GPU too.

    Raises:
        MachineError: a GPU was asked for that this machine or this build of torch does not have.
    """
    if device is None:
        return torch.device("cuda", _own_gpu()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise MachineError(f"device: found {device!r}; expected 'cpu' or 'cuda:<number>'.") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"device: {device!r} was asked for, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} GPUs. "
            "Use device 'cpu', or install a torch build for this machine's driver."
        )
    if wanted.type == "cuda" and wanted.index is None and active():
        return torch.device("cuda", _own_gpu())
    return wanted


def _own_gpu() -> int:
    """Number of this process's GPU.

    Raises:
        MachineError: more processes than GPUs on this machine.
    """
    count = torch.cuda.device_count()
    if local_rank() < count:
        return local_rank()
    if "SLURM_PROCID" in os.environ and count == 1:
        return 0  # Slurm may show each task its own GPU only
    raise MachineError(
        f"GPUs: this is process {local_rank()} (from 0) on a machine with {count} GPUs; expected one GPU a "
        "process. Start fewer processes, or give --device cpu."
    )


@contextlib.contextmanager
def session(
    launcher: str = "none", backend: str | None = None, *, device: str | None = None, port: int | None = None
) -> Iterator[None]:
    """Process group for the time of a ``with`` block, from the environment that the launcher sets.

    While it lasts the processes watch each other (``watchdog``): one that dies without a word ends all.

    Args:
        launcher: 'none' joins no group; 'pytorch' reads RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; 'slurm'
            and 'mpi' derive them from what srun and Open MPI's mpirun set.
        backend: 'nccl' or 'gloo'; without a GPU always 'gloo'.
        device: what the run was asked to run on; 'cpu' takes 'gloo'.
        port: the config's ``dist_params.port``, for 'slurm' and 'mpi'.

    Raises:
        ConfigError: a launcher that is unknown, or an incomplete environment.
        MachineError: the processes do not find each other.
        PeerError: the connection to another process broke.
    """
    if launcher == "none":
        yield
        return
    join_environment(launcher, port)
    on_gpu = torch.cuda.is_available() and not str(device or "").startswith("cpu")
    chosen = (backend or "nccl") if on_gpu else "gloo"
    if on_gpu:
        torch.cuda.set_device(_own_gpu())
    if chosen == "gloo":
        _choose_interface()
    # with a store that is there already, the others are watched while they come together
    watch = watchdog.start(met=False) if _launcher_has_store() else None
    try:
        _join(chosen)
        if watch is None:
            watch = watchdog.start(met=True)
        watch.met()
        yield
    except Exception as error:
        told = _as_peer_error(error, watch)
        watchdog.record(told)
        if watch is not None:
            watch.close(failed=None if isinstance(told, PeerError) else f"{type(told).__name__}: {told}")
        if told is error:
            raise
        raise told from error
    else:
        watch.close()
    finally:
        # nccl would wait for the others
        if active() and (chosen == "gloo" or sys.exc_info()[0] is None):
            dist.destroy_process_group()


def _join(backend: str) -> None:
    """Start the process group.

    Raises:
        MachineError: the others do not answer, or the port is taken.
    """
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=30), **_meeting_place())
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        taken = "EADDRINUSE" in str(error)
        raise MachineError(
            f"process group at {where}: "
            + (
                "the port is taken on this machine, by another run perhaps. Choose another one: PORT (with "
                "--gpus), or MASTER_PORT or --cfg-options dist_params.port=N (with --launcher slurm)."
                if taken
                else f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} did not meet the others "
                f"({str(error).splitlines()[0]}). Check that all of them were started and that {where} can "
                "be reached from every machine."
            )
        ) from error


def _meeting_place() -> dict[str, Any]:
    """The store of torch's launcher, with keys of its own for every start.

    The launcher keeps its store over restarts; without this, processes would call those of the last attempt.
    """
    if not _launcher_has_store():
        return {}
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", _store())
    return {"store": store, "rank": number, "world_size": count}


def _store() -> TCPStore:
    """A connection to the launcher's store."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return watchdog.connect(host, port, timedelta(minutes=5))


def _launcher_has_store() -> bool:
    """Whether torch's launcher keeps the store; otherwise process 0 does, once it has joined."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _choose_interface() -> None:
    """Let gloo use the network on which process 0 is reached: it would take the host name's address.

    On many machines that is a loopback address, which other machines cannot reach.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((os.environ["MASTER_ADDR"], 9))  # sends nothing
        own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if any(address.address == own for address in addresses):
                os.environ["GLOO_SOCKET_IFNAME"] = name


def _as_peer_error(error: Exception, watch: watchdog.Heartbeat | None) -> Exception:
    """A collective's failure by another process's end, in words; any other error as it is."""
    text = str(error)
    lost = [words for words in LOST_CONNECTION if words in text]
    if not (lost and isinstance(error, RuntimeError)) or world_size() == 1:
        return error
    cause = watch.cause() if watch is not None else None
    return PeerError(
        f"process {rank()}: the connection to another process broke ({lost[0]}). "
        + (cause or "That process's own message says why.")
    )


def export_local_rank(number: int | None) -> None:
    """Take over the old launcher's ``--local_rank``; the environment of torchrun wins."""
    if number is not None:
        os.environ.setdefault("LOCAL_RANK", str(number))
