"""Several trainings that are compared: which they are, and the table of what they gave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from detector.errors import ConfigError, DetectorError
from tasks import report, tables, tracking
from tasks.digests import digest
from tasks.registry import STEPS
from tasks.request import RUNS_ROOT, Request
from tasks.steps import Log, write_json
from tasks.tracked_run import RunFile

STEPS_OF_EACH = ("train", "evaluate")
FILE = "sweep.json"
PATIENCE_WHEN_STOPPED = 3.0  # seconds for MLflow: whoever cancels kills what is still there after 30


@dataclass
class Member:
    """One training of a sweep and what became of it.

    Attributes:
        request: the run.
        label: the run in words.
        done: summaries of its steps, in order.
        error: why it failed, '' when it did not.
    """

    request: Request
    label: str
    done: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    @property
    def state(self) -> str:
        """What became of the run, in words."""
        if self.error:
            return f"failed: {first_line(self.error)}"
        return "completed" if len(self.done) == len(STEPS_OF_EACH) else "not run"

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured, empty without an evaluation."""
        found: dict[str, float] = {}
        for step in self.done:
            found.update((step["value"] or {}).get("metrics", {}))
        return found


def members(
    shared: Request, configs: Sequence[str], seeds: Sequence[int], variants: Sequence[str]
) -> list[Member]:
    """Every config with every variant and every seed, each run once.

    Args:
        shared: gives all else.
        configs: families, names or paths.
        seeds: of the trainings.
        variants: overrides, several with spaces between; none means the configs as they are.

    Raises:
        ConfigError: two configs of one name, whose files would be written to the same place.
    """
    found: dict[Path, Member] = {}
    for config, text, seed in product(configs, variants or [""], seeds):
        request = replace(shared, config=config, seed=seed, overrides=tuple(text.split()))
        label = " ".join([request.name, f"seed {seed}", *request.overrides])
        other = found.setdefault(request.run_dir, Member(request, label)).request
        if other.loaded.path.resolve() != request.loaded.path.resolve():
            raise ConfigError(
                f"sweep: found the configs {other.loaded.path} and {request.loaded.path}, whose results go "
                f"to the same folder {request.run_dir}; expected different names. Rename one of the files."
            )
    return list(found.values())


def folder(found: Sequence[Member]) -> Path:
    """Where the comparison of these runs is kept."""
    names = list(dict.fromkeys(member.request.name for member in found))
    name = names[0] if len(names) == 1 else f"{len(names)}-configs"
    return RUNS_ROOT / "sweeps" / f"{name}-{digest([str(m.request.run_dir) for m in found])[:6]}"


def finished(found: Iterable[Member]) -> bool:
    """Whether all of them are trained and evaluated already."""
    try:
        return all(
            STEPS[name].receipt(STEPS[name].key(m.request))[0] for m in found for name in STEPS_OF_EACH
        )
    except DetectorError:  # an input is missing: nothing was prepared or trained yet
        return False


def rows(found: Sequence[Member]) -> list[dict[str, Any]]:
    """The comparison: what differs, what was measured, how long it took, and the MLflow run."""
    names = list(dict.fromkeys(name for member in found for name in report.headline(member.metrics)))
    return [
        {
            "config": member.request.name,
            "overrides": " ".join(member.request.overrides),
            "seed": member.request.seed,
            "state": member.state,
            **{name: member.metrics.get(name) for name in names},
            "seconds": round(sum(step["seconds"] for step in member.done), 1),
            "run": RunFile.load(member.request.run_dir).run_id,
        }
        for member in found
    ]


def first_line(text: str, limit: int = 500) -> str:
    """The beginning of an error's message."""
    line = text.strip().split("\n")[0]
    return line if len(line) <= limit else f"{line[:limit]} ..."


def page(found: Sequence[Member]) -> str:
    """The comparison in Markdown, with links to MLflow."""
    lines = [f"# Sweep of {len(found)} runs", "", tables.markdown(rows(found))]
    files = [RunFile.load(member.request.run_dir) for member in found]
    links = [
        f"- [{member.label}]({file.url})" for member, file in zip(found, files, strict=True) if file.run_id
    ]
    parent = parent_of(folder(found))
    beside = next((file for file in files if file.run_id), None)
    if parent and beside:
        lines += [f"Compared in the MLflow run [{parent}]({replace(beside, run_id=parent).url}) above:", ""]
    return "\n".join([*lines, *links, "", f"The table is also in `{folder(found) / FILE}`.", ""])


@contextmanager
def tracked(found: Sequence[Member], asked: Mapping[str, Any], log: Log) -> Iterator[None]:
    """Keep one MLflow run above those of the members, and the comparison in a file.

    A comparison of the same finished runs was made before: its run is left as it is.

    Args:
        found: the members.
        asked: the flow's parameters.
        log: gets what MLflow did not take.
    """
    where = folder(found)
    known = parent_of(where) if finished(found) and not asked.get("refresh") else ""
    data = found[0].request.data
    told = {name: _text(value) for name, value in asked.items() if value not in (None, [], "")}

    def opened() -> str:
        name = data.dataset if data else str(asked.get("dataset", ""))
        return tracking.open_sweep(where.name, name, told, log)

    parent, ended = known or opened(), False
    try:
        yield
        ended = True
    finally:
        if ended and not parent:  # MLflow did not answer then, but may now
            parent = opened()
        compared = rows(found)
        save(where, parent, compared)
        if not known:
            folders = [member.request.run_dir for member in found]
            closing = threading.Thread(
                target=tracking.close_sweep, args=(parent, folders, compared, log), daemon=True
            )
            closing.start()
            closing.join(None if ended else PATIENCE_WHEN_STOPPED)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def save(where: Path, parent: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Keep the comparison and its MLflow run."""
    write_json(where / FILE, {"mlflow_run": parent, "rows": list(found)})


def parent_of(where: Path) -> str:
    """The MLflow run of an earlier comparison of the same runs, '' for none."""
    try:
        return str(json.loads((where / FILE).read_text())["mlflow_run"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def failure(found: Sequence[Member]) -> str:
    """What to say when some of the runs failed, '' when none did."""
    failed = [member for member in found if member.error]
    if not failed:
        return ""
    named = "; ".join(f"{member.label}: {first_line(member.error)}" for member in failed)
    return (
        f"{len(failed)} of {len(found)} runs failed: {named}. The others are complete. Correct what "
        "is wrong and run the same sweep again: it goes on with these alone."
    )
