"""The few facts about other processes that a run needs; all of them also work in a single process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from detector.errors import ConfigError, MachineError

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


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

    Raises:
        MachineError: a GPU was asked for that this machine or this build of torch does not have.
    """
    if device is None:
        return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")
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
    return wanted


@contextlib.contextmanager
def session(launcher: str = "none", backend: str | None = None) -> Iterator[None]:
    """Process group for the time of a ``with`` block, from the environment that torchrun sets.

    Args:
        launcher: 'none' joins no group; 'pytorch' reads RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
        backend: 'nccl' or 'gloo'; without a GPU always 'gloo'.

    Raises:
        ConfigError: a launcher that is unknown or not built yet, or an incomplete environment.
    """
    if launcher == "none":
        yield
        return
    if launcher != "pytorch":
        raise ConfigError(f"--launcher: found {launcher!r}; expected 'none' or 'pytorch'.")
    missing = [
        name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise ConfigError(
            f"--launcher pytorch: the environment lacks {', '.join(missing)}. Start it as: torchrun "
            "--nproc-per-node N -m detector train …"
        )
    chosen = (backend or "nccl") if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    dist.init_process_group(chosen, timeout=timedelta(minutes=30))
    try:
        yield
    finally:
        dist.destroy_process_group()


def export_local_rank(number: int | None) -> None:
    """Take over the old launcher's ``--local_rank``; the environment of torchrun wins."""
    if number is not None:
        os.environ.setdefault("LOCAL_RANK", str(number))
