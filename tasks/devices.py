"""Who computes where: one training or test per GPU of this machine at a time, whoever started it.

A place to compute is a lock file that the kernel frees when its holder ends, in whatever way, so a killed
holder blocks nobody. GPUs are known by their UUIDs, machine-wide: two projects, or a flow and a DVC stage,
share them. A mask of the user's (``CUDA_VISIBLE_DEVICES``) decides which of them count, and what runs gets a
mask within it. On the CPU only trainings wait for one another, and only those of one project: the system
shares out its cores, but two trainings take twice the memory.

Prefect's global concurrency limits do not mirror the places: they need the server at every start of a
training, which works without one, and after ``kill -9`` of a holder their slot stays taken until its lease
runs out (prefect#16746), while the lock is free at once.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from detector.errors import MachineError
from tasks.digests import cache_dir
from tasks.steps import Job, Log

MASK = "CUDA_VISIBLE_DEVICES"
FOLDER_VARIABLE = "DETECTOR_DEVICE_LOCKS"
SLOTS_VARIABLE = "DETECTOR_CPU_SLOTS"
DRIVERS = ("/dev/nvidiactl", "/dev/kfd")  # there is a GPU, whether or not nvidia-smi is there to list it
EVERY = 0.5  # seconds between two looks at places that are taken


@dataclass(frozen=True)
class Place:
    """Somewhere to compute, which one process holds at a time.

    Attributes:
        name: in words.
        path: of the lock file.
        uuid: of the GPU, as CUDA takes it in a mask; empty for the CPU.
    """

    name: str
    path: Path
    uuid: str = ""


def on_device(run: Callable[[Job, Any], Any], *, tests: bool = False) -> Callable[[Job, Any], Any]:
    """A step's ``run`` that first takes its place to compute, and keeps it until it ends.

    Args:
        run: of a step whose request has ``device``.
        tests: the step trains nothing: it takes one GPU, and on the CPU it does not wait.
    """

    @functools.wraps(run)
    def placed(job: Job, request: Any) -> Any:
        count, seed = (1, "") if tests else (request.processes, f" seed {request.seed}")
        what = f"{job.key.rsplit('-', 1)[0]} of {request.name}{seed}"
        with taken(request.device, count, what=what, log=job.log, cpu=not tests):
            return run(job, request)

    return placed


@contextmanager
def taken(device: str | None, count: int, *, what: str, log: Log, cpu: bool = True) -> Iterator[None]:
    """Hold the places that a run needs while the block runs; what it starts sees no other GPU.

    Args:
        device: 'cpu', 'cuda' or 'cuda:N', counted within the mask; None for the first free GPU, else the CPU.
        count: GPUs at a time.
        what: the run in words, for those who wait for it.
        log: told whom the run waits for.
        cpu: whether a run on the CPU takes a place.

    Raises:
        MachineError: the GPUs that are asked for are not there.
    """
    places, needed, mask = wanted(device, count)
    if (mask is None and not cpu) or not places:
        yield
        return
    with ExitStack() as stack:
        held = _take(places, needed, stack, what, log)
        if mask is not None:
            stack.enter_context(_masked(mask if _number(device) is not None else [p.uuid for p in held]))
        yield


def wanted(device: str | None, count: int) -> tuple[list[Place], int, list[str] | None]:
    """The places that would do, how many of them are needed, and the mask they are of (None: the CPU).

    There are none, and nobody waits, where a GPU's driver does not tell what there is.

    Raises:
        MachineError: the GPUs that are asked for are not there.
    """
    on_gpu = device is None or device.startswith("cuda")
    if on_gpu and not gpu_uuids() and any(Path(path).exists() for path in DRIVERS):
        return [], count, None
    gpus = visible(gpu_uuids(), os.environ.get(MASK)) if on_gpu else []
    if not on_gpu or (device is None and not gpus):
        return cpu_places(), 1, None
    places = [Place(f"GPU {i} ({uuid})", _folder() / f"{uuid}.lock", uuid) for i, uuid in enumerate(gpus)]
    number = _number(device)
    if number is None and count <= len(places):
        return places, count, gpus
    if number is not None and number < len(places):
        return [places[number]], 1, gpus
    asked = f"{count} for {count} processes" if number is None else f"one with the number {number}"
    raise MachineError(
        f"device: found {len(gpus)} GPUs{_masked_by()}; expected {asked}. Ask for fewer, give --device cpu, "
        f"or change {MASK}."
    )


def _number(device: str | None) -> int | None:
    """The number of a GPU that is asked for; None for any."""
    text = (device or "").removeprefix("cuda:")
    return int(text) if text.isdecimal() else None


def capacity(device: str | None, count: int = 1) -> int:
    """How many runs of ``count`` processes can compute at a time."""
    places, needed, _ = wanted(device, count)
    return max(1, len(places) // max(1, needed))


def cpu_places() -> list[Place]:
    """The places of trainings on the CPU.

    Raises:
        MachineError: ``DETECTOR_CPU_SLOTS`` is no number of at least 1.
    """
    text = os.environ.get(SLOTS_VARIABLE) or "1"
    if not text.isdecimal() or int(text) < 1:
        raise MachineError(
            f"{SLOTS_VARIABLE}: found {text!r}; expected how many trainings may run on the CPU at a time, a "
            "number from 1 on. Correct it, or unset it for one."
        )
    folder = cache_dir().absolute() / "locks"
    return [Place(f"CPU place {index + 1}", folder / f"cpu-{index}.lock") for index in range(int(text))]


@functools.cache
def gpu_uuids() -> tuple[str, ...]:
    """The UUIDs of this machine's GPUs in the order of the bus."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        done = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):  # the driver is not loaded: CUDA sees no GPU either
        return ()
    return parsed(done.stdout)


def parsed(listing: str) -> tuple[str, ...]:
    """The UUIDs in what ``nvidia-smi -L`` prints; of a GPU that is split (MIG), those of its parts."""
    found: list[str] = []
    for line in listing.splitlines():
        uuid = line.rpartition("UUID: ")[2].rstrip(") ")
        if line.startswith("GPU "):
            found.append(uuid)
        elif uuid.startswith("MIG-"):
            if found and found[-1].startswith("GPU-"):
                found.pop()
            found.append(uuid)
    return tuple(found)


def visible(uuids: Sequence[str], mask: str | None) -> list[str]:
    """The GPUs that a mask leaves, in its order; as CUDA does, it ends at the first entry that names none.

    A number counts the GPUs in the order of the bus (what ``nvidia-smi`` shows).
    """
    if mask is None:
        return list(uuids)
    found: list[str] = []
    for entry in (part.strip() for part in mask.split(",")):
        if entry.isdecimal():
            named = list(uuids[int(entry) : int(entry) + 1])
        else:
            named = [uuid for uuid in uuids if entry and uuid.startswith(entry)]
        if len(named) != 1:
            break
        if named[0] not in found:
            found.append(named[0])
    return found


def _masked_by() -> str:
    mask = os.environ.get(MASK)
    return "" if mask is None else f" within {MASK}={mask!r}"


@contextmanager
def _masked(uuids: Sequence[str]) -> Iterator[None]:
    """Show only these GPUs to CUDA, in this process if it has not looked yet, and in those it starts."""
    before = os.environ.get(MASK)
    os.environ[MASK] = ",".join(uuids)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(MASK, None)
        else:
            os.environ[MASK] = before


def _folder() -> Path:
    """The folder of the GPUs' locks, which all users of this machine share."""
    folder = Path(os.environ.get(FOLDER_VARIABLE) or Path(tempfile.gettempdir()) / "detector-devices")
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):
            folder.chmod(0o1777)
    return folder


def _take(places: Sequence[Place], count: int, stack: ExitStack, what: str, log: Log) -> list[Place]:
    """Lock ``count`` of the places, waiting for those that others hold.

    Who needs several keeps what it has until it has all; such runs wait in line before that, so that two of
    them never wait for each other.
    """
    held: list[Place] = []
    told = ""
    line = stack.enter_context(ExitStack())
    while count > 1 and not _try(line, places[0].path.with_name("line.lock"), what):
        told = _tell(places, told, what, log)
        time.sleep(EVERY)
    while True:
        for place in places:
            if place not in held and len(held) < count and _try(stack, place.path, what):
                held.append(place)
        if len(held) == count:
            line.close()
            return [place for place in places if place in held]
        told = _tell([place for place in places if place not in held], told, what, log)
        time.sleep(EVERY)


def _tell(places: Sequence[Place], told: str, what: str, log: Log) -> str:
    """Say who holds the places, when that is something new."""
    holders = "; ".join(f"{place.name} is taken by {_holder(place.path)}" for place in places)
    if holders != told:
        log(f"{what}: waiting: {holders}")
    return holders


def _try(stack: ExitStack, path: Path, what: str) -> bool:
    """Lock a file until ``stack`` closes, noting in it who we are; False when another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    stack.callback(file.close)
    file.truncate(0)
    note = {"pid": os.getpid(), "what": what, "folder": str(Path.cwd()), "since": time.strftime("%H:%M")}
    file.write(json.dumps(note))
    file.flush()
    return True


def _open(path: Path) -> IO[str]:
    """Open a lock file that another user may have made: in a shared folder only without O_CREAT."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o666)
        with suppress(PermissionError):
            os.fchmod(descriptor, 0o666)
    return os.fdopen(descriptor, "r+")


def _holder(path: Path) -> str:
    """Who holds a lock, as noted in its file."""
    try:
        note = json.loads(path.read_text())
        return f"{note['what']} (process {note['pid']} in {note['folder']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
