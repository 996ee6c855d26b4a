"""A step of the pipeline and the receipt that says it is done.

One cache, and it never lies: a step is done when its receipt ``<cache>/steps/<key>.json`` verifies, that is,
when every output it lists is there with the recorded content. The key is built from everything that could
change the outputs. The command line, the DVC stages and the Prefect tasks all go through ``Step.ensure``;
what one ran, the others find done.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from detector.errors import DetectorError
from detector.whole_files import replacing
from tasks.code import code_digest, modules
from tasks.digests import DigestCache, cache_dir, digest, sha256_file

Request = TypeVar("Request")
Log = Callable[[str], None]
Outputs = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """What a running step may know about its own run."""

    key: str
    log: Log


@dataclass(frozen=True)
class Receipt:
    """Proof that a step ran.

    Attributes:
        step: name of the step.
        key: what the outputs depend on, as one name.
        parts: digest of every part of the key, to tell why two keys differ.
        outputs: path -> size, mtime_ns and sha256 of a file, or the target of a link.
        value: what the step returned (JSON).
        digest: one digest of the contents of all outputs.
        seconds: how long the step ran.
        when: seconds since 1970 at its end; 0 in receipts from before this was noted.
        details: what digests in ``parts`` stand for: module -> digest, config key -> value.
    """

    step: str
    key: str
    parts: dict[str, Any]
    outputs: Outputs
    value: Any
    digest: str
    seconds: float
    when: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step(Generic[Request]):
    """One cached unit of work.

    Attributes:
        name: unique among the steps.
        run: does the work; gets the job and the request, returns something JSON-able.
        code: modules from which the code digest starts (the module of ``run`` is always one of them).
        ignore: reachable modules that cannot change the outputs.
        inputs: everything read, as JSON-able digests; raises DatasetError when something is missing.
        outputs: the files, folders and links that ``run`` writes.
        extra: outputs whose names only the returned value tells.
        versions: distributions whose version changes the outputs.
        recheck: what is wrong, besides the outputs, by the returned value; an empty string for nothing.
        details: what digests among the inputs stand for, by name; the receipt keeps it to tell keys apart.
        afresh: drops what an earlier run left to go on from.
    """

    name: str
    run: Callable[[Job, Request], Any]
    inputs: Callable[[Request], Mapping[str, Any]]
    outputs: Callable[[Request], Sequence[Path]]
    code: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    extra: Callable[[Any], Sequence[Path]] = lambda value: ()
    recheck: Callable[[Any], str] = lambda value: ""
    details: Callable[[Request], Mapping[str, Any]] = lambda request: {}
    afresh: Callable[[Request], None] = lambda request: None

    def parts(self, request: Request) -> dict[str, Any]:
        """Everything the outputs depend on, by name."""
        return {
            "code": code_digest(self._roots, ignore=self._ignored),
            "inputs": dict(self.inputs(request)),
            "outputs": [path.as_posix() for path in self.outputs(request)],
            "versions": {name: installed(name) for name in self.versions},
        }

    def explained(self, request: Request) -> dict[str, Any]:
        """What digests among the parts stand for, by the part's name."""
        return {"code": modules(self._roots, ignore=self._ignored), **self.details(request)}

    @property
    def _roots(self) -> tuple[str, ...]:
        return (self.run.__module__, *self.code)

    @property
    def _ignored(self) -> tuple[str, ...]:
        return (*PLUMBING, *self.ignore)

    def key(self, request: Request) -> str:
        """The name under which the receipt is kept: the step's name and a digest, no dot in it."""
        return f"{self.name}-{digest([self.name, self.parts(request)])[:32]}"

    def receipt(self, key: str) -> tuple[Receipt | None, str]:
        """The receipt if the step is done, otherwise None; and why it counts as not done."""
        path = receipt_path(key)
        try:
            receipt = Receipt(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None, "not run yet with this code, config and data"
        except (ValueError, TypeError):
            return None, f"{path} is not readable"
        why = verify(receipt.outputs) or self.recheck(receipt.value)
        return (None, why) if why else (receipt, "")

    def ensure(self, request: Request, log: Log = print) -> Receipt:
        """Run the step unless it is done. Of two processes asking at once, one runs and the other waits."""
        with locked(lock_name(self.name, [path.as_posix() for path in self.outputs(request)]), log):
            parts = self.parts(request)
            key = f"{self.name}-{digest([self.name, parts])[:32]}"
            done, why = self.receipt(key)
            if done:
                log(f"{self.name}: up to date ({key})")
                return done
            log(f"{self.name}: running ({why})")
            details, started = self.explained(request), time.monotonic()  # of the code that runs now
            value = self.run(Job(key=key, log=log), request)
            outputs = manifest([*self.outputs(request), *self.extra(value)])
            receipt = Receipt(
                step=self.name, key=key, parts=parts, outputs=outputs, value=value,
                digest=digest({path: entry.get("sha256") for path, entry in outputs.items()}),
                seconds=round(time.monotonic() - started, 3),
                when=round(time.time(), 3), details=details,
            )  # fmt: skip
            write_json(receipt_path(key), asdict(receipt))
            log(f"{self.name}: done in {receipt.seconds:.1f} s")
            return receipt

    def forget(self, request: Request) -> None:
        """Make the next ``ensure`` run the step from its beginning although it is done.

        Done before the run, not in it, so that a run that is retried after a crash goes on where it was.
        """
        with suppress(DetectorError):  # an input is missing: it has no receipt, and the run will say so
            receipt_path(self.key(request)).unlink(missing_ok=True)
        self.afresh(request)


# How a step is run, watched and recorded does not change what it makes.
PLUMBING = (
    "tasks.__main__", "tasks.cache_command", "tasks.code", "tasks.data_command", "tasks.digests",
    "tasks.devices", "tasks.prefect_sweep", "tasks.settings",
    "tasks.sweeps", "tasks.tables", "tasks.prefect_cluster",
    "tasks.leases", "tasks.masking", "tasks.prefect_artifacts",
    "tasks.launch", "tasks.manifests", "tasks.prefect_tasks", "tasks.receipts", "tasks.registry",
    "tasks.report", "tasks.request", "tasks.spool", "tasks.stamping", "tasks.steps", "tasks.tracked_run",
    "tasks.tracking", "tasks.tracking_command", "tasks.versioning", "tasks.walking",
    "flows", "detector.errors", "detector.lineage", "detector.progress",
)  # fmt: skip


def receipt_path(key: str) -> Path:
    """Where the receipt of a key is kept."""
    return cache_dir() / "steps" / f"{key}.json"


def lock_name(step: str, outputs: Sequence[str]) -> str:
    """The lock that is held while a step writes to these places."""
    return f"{step}-{digest(list(outputs))[:16]}"


def recorded_outputs(key: str) -> Outputs:
    """What the receipt of a key lists, whether it verifies or not; nothing without one."""
    try:
        found = json.loads(receipt_path(key).read_text())["outputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(found)


@functools.cache
def installed(distribution: str) -> str:
    """The version of an installed distribution, or 'absent'; nothing is imported."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def manifest(paths: Sequence[Path]) -> Outputs:
    """What is at ``paths`` now: links by target, files (those below folders too) by size, mtime and sha256.

    Raises:
        FileNotFoundError: a path is not there, so the step did not do what it says.
    """
    found: Outputs = {}
    files: list[Path] = []
    for top in paths:
        if top.is_symlink():
            found[top.as_posix()] = {"link": str(top.readlink())}
        elif top.is_dir():
            files.extend(path for path in sorted(top.rglob("*")) if path.is_file())
        else:
            files.append(top)
    for path, sha in DigestCache().files(files).items():
        stat = path.stat()
        found[path.as_posix()] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha}
    return found


def verify(outputs: Outputs) -> str:
    """What is wrong with the outputs compared with their record, or an empty string."""
    for name, entry in outputs.items():
        path = Path(name)
        if "link" in entry:
            if not path.is_symlink() or str(path.readlink()) != entry["link"] or not path.exists():
                return f"the link {name} is gone, changed or broken"
            continue
        try:
            stat = path.stat()
        except OSError:
            return f"{name} is missing"
        same_time = stat.st_mtime_ns == entry["mtime_ns"]
        if stat.st_size != entry["size"] or (not same_time and sha256_file(path) != entry["sha256"]):
            return f"{name} was changed"
    return ""


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as stream:
        stream.write(text.encode())


@contextmanager
def locked(name: str, log: Log, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock ``name``; the kernel releases it when the holder dies, in whatever way.

    Raises:
        BlockingIOError: another process holds it, and nobody wants to wait.
    """
    path = cache_dir() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            log(f"{name}: waiting for another process that is at it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
