"""All receipts together: which there are, why a run is not one of them, and which nothing needs any more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.digests import cache_dir
from tasks.request import DATA_ROOT, RUNS_ROOT
from tasks.steps import Receipt, Step, receipt_path, verify

SHORT = 12  # characters of a digest that are shown
Leaves = Mapping[tuple[str, ...], Any]


@dataclass(frozen=True)
class Kept:
    """A receipt as found: when it was written, and why its step does not count as done ('' when it does)."""

    receipt: Receipt
    when: float
    why: str

    @property
    def size(self) -> int:
        """Bytes of all outputs together."""
        return sum(int(entry.get("size", 0)) for entry in self.receipt.outputs.values())


def receipts(steps: Mapping[str, Step[Any]]) -> list[Kept]:
    """Every readable receipt, oldest first."""
    found = []
    for path in (cache_dir() / "steps").glob("*.json"):
        try:
            receipt = Receipt(**json.loads(path.read_text()))
            when = receipt.when or path.stat().st_mtime
        except (OSError, ValueError, TypeError):
            continue
        step = steps.get(receipt.step)
        why = verify(receipt.outputs) or (step.recheck(receipt.value) if step else "no such step any more")
        found.append(Kept(receipt, when, why))
    return sorted(found, key=lambda kept: (kept.when, kept.receipt.key))


def nearest(parts: Mapping[str, Any], earlier: Sequence[Kept]) -> Kept | None:
    """The run that differs least from ``parts``: at the same place, in the fewest points, the newest."""

    def distance(kept: Kept) -> tuple[bool, int, float]:
        ours, theirs = dict(leaves(parts)), dict(leaves(kept.receipt.parts))
        points = sum(ours.get(name) != theirs.get(name) for name in {*ours, *theirs})
        return parts["outputs"] != kept.receipt.parts.get("outputs"), points, -kept.when

    return min(earlier, key=distance, default=None)


def differences(old: Receipt, parts: Mapping[str, Any], details: Mapping[str, Any]) -> list[str]:
    """What of the key is not as in an earlier run, one line each.

    Args:
        old: the earlier run.
        parts: of the key, now.
        details: what digests among ``parts`` stand for, now.
    """
    before, now = dict(leaves(old.parts)), dict(leaves(parts))
    lines: list[str] = []
    for name in dict.fromkeys([*now, *before]):
        was, now_is = before.get(name, "absent"), now.get(name, "absent")
        if was == now_is:
            continue
        known, meant = old.details.get(name[-1]), details.get(name[-1])
        if isinstance(known, Mapping) and isinstance(meant, Mapping):
            lines += _changes(name[-1], known, meant)
        else:
            lines.append(_change("/".join(name), was, now_is))
    return lines


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The parts of a key that hold no others, by their path."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for name, item in value.items():
        yield from leaves(item, (*path, str(name)))


def _changes(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = sorted({*before, *now})
    return [
        _change(f"{what} {name}", before.get(name, "absent"), now.get(name, "absent"))
        for name in names
        if before.get(name) != now.get(name)
    ]


def _change(what: str, before: Any, now: Any) -> str:
    if _is_digest(before) and _is_digest(now):
        return f"{what}: other content ({str(before)[:SHORT]} -> {str(now)[:SHORT]})"
    shown = [str(value)[:SHORT] if _is_digest(value) else str(value) for value in (before, now)]
    return f"{what}: {shown[0]} -> {shown[1]}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) in (16, 32, 64) and not set(value) - set("0123456789abcdef")


@dataclass(frozen=True)
class Plan:
    """What a clean-up removes: receipts with why, and the files of theirs that nothing else refers to."""

    receipts: dict[str, tuple[Kept, str]] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)  # file -> key of its receipt

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(path.lstat().st_size for path in self.files if path.exists())


def plan(
    found: Sequence[Kept],
    tracked: Callable[[str], bool],
    *,
    older_than: float | None = None,
    keep: int | None = None,
) -> Plan:
    """Choose the receipts that prove nothing any more, or are old, and the files that only they list.

    What a receipt that stays was made from stays, too.

    Args:
        found: all receipts, oldest first.
        tracked: whether a path is DVC's.
        older_than: seconds; older receipts go.
        keep: newest receipts of every step that stay; without ``older_than``, all others go.
    """
    chosen = _chosen([kept for kept in found if not kept.why], older_than, keep)
    broken = [kept for kept in found if kept.why]
    staying = [kept.receipt for kept in found if not kept.why and kept.receipt.key not in chosen]
    for key, kept in list(chosen.items()):  # newest first: who needs comes before who is needed
        if any(_needs(other, kept.receipt) for other in staying):
            del chosen[key]
            staying.append(kept.receipt)
    listed = {path for receipt in staying for path in receipt.outputs}

    def only_its(receipt: Receipt) -> list[Path]:
        return [
            Path(path) for path, entry in receipt.outputs.items()
            if path not in listed and not tracked(path) and _ours(Path(path)) and not verify({path: entry})
        ]  # fmt: skip

    going = {key: (kept, f"from {stamp(kept.when)}") for key, kept in chosen.items()}
    files = {path: key for key, kept in chosen.items() for path in only_its(kept.receipt)}
    for kept in broken:  # what is left of its files may be all there is of a training
        old = older_than is not None and time.time() - kept.when > older_than
        left = only_its(kept.receipt)
        if old or not left:
            going[kept.receipt.key] = kept, kept.why
            files.update(dict.fromkeys(left, kept.receipt.key))
    return Plan(going, files)


def _chosen(verified: Sequence[Kept], older_than: float | None, keep: int | None) -> dict[str, Kept]:
    """By key, newest first, the receipts that are too old and not among the newest of their step."""
    going: dict[str, Kept] = {}
    seen: dict[str, int] = {}
    for kept in reversed(verified if older_than is not None or keep is not None else ()):
        name = kept.receipt.step
        seen[name] = seen.get(name, 0) + 1
        old = older_than is None or time.time() - kept.when > older_than
        if old and seen[name] > (keep or 0):
            going[kept.receipt.key] = kept
    return going


def remove(chosen: Plan, keys: Sequence[str]) -> None:
    """Delete the receipts of ``keys``, Prefect's records of them, and their files of the plan."""
    for path, key in chosen.files.items():
        if key not in keys:
            continue
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder in (DATA_ROOT, RUNS_ROOT) or any(folder.iterdir()):
                break
            folder.rmdir()
    for key in keys:
        (cache_dir() / "prefect" / "keys" / key).unlink(missing_ok=True)
        receipt_path(key).unlink(missing_ok=True)


def stamp(when: float) -> str:
    """A time, in words."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def _needs(one: Receipt, other: Receipt) -> bool:
    """Whether a run has read what the other one made, told by paths and digests."""
    inputs = list(leaves(one.parts.get("inputs", {})))
    digests = {value for _, value in inputs if _is_digest(value)}
    paths = {name for path, _ in inputs for name in path if "/" in name}
    return any(
        entry.get("sha256") in digests
        or any(name == path or name.startswith(f"{path}/") or path.startswith(f"{name}/") for name in paths)
        for path, entry in other.outputs.items()
    )


def _ours(path: Path) -> bool:
    """Whether a path lies in a folder that only the steps write."""
    return not path.is_absolute() and path.parts[:1] in ((DATA_ROOT.name,), (RUNS_ROOT.name,))
