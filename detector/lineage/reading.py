"""Reading the stamp of any file that has one, and putting it into lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detector.lineage.carriers import SIDECAR, read_carried
from detector.lineage.models import IN_META
from detector.lineage.stamp import KEY, LineageError, Stamp

CHECKPOINTS = (".pth", ".pt", ".safetensors")


def read_stamp(path: str | Path) -> Stamp:
    """The stamp of a file; that of a checkpoint comes with the config's text.

    Raises:
        LineageError: there is no file, or no stamp.
        CheckpointError: a checkpoint cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise LineageError(
            f"{path}: found no file; expected a checkpoint, results.pkl, metrics json, submission zip or "
            "picture that this project wrote."
        )
    found = of_checkpoint(path) if path.suffix in CHECKPOINTS else read_carried(path)
    if found is None:
        raise LineageError(
            f"{path}: found no lineage in it, and no {path.name}{SIDECAR} beside it; expected a file that "
            "this project wrote: a checkpoint (.pth, .safetensors), results.pkl, metrics json, submission "
            "zip or picture (.png, .jpg). A bare json for a server cannot hold one: ask its zip. Older "
            "files, and those of other programs, have none."
        )
    return found


def of_checkpoint(path: Path) -> Stamp | None:
    """The stamp in a checkpoint's meta, with the text of its config; None without one."""
    from detector.checkpoint.files import load_checkpoint

    meta = load_checkpoint(path).meta
    found = meta.get(KEY)
    if not isinstance(found, dict) or not found:
        return None
    config = dict(found.get("config") or {})
    if config.get("text") == IN_META:
        config["text"] = meta.get("config")
    return {**found, "config": config}


def lines(stamp: Mapping[str, Any]) -> Iterator[str]:
    """The stamp for people, one fact a line; the config's text only by its length."""
    flat = list(_flat(stamp, ""))
    width = max((len(name) for name, _ in flat), default=0)
    for name, value in flat:
        yield f"{name:<{width}}  {value}"


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{path}.{number}")
    elif path.endswith("config.text"):
        yield path, f"{len(str(value).splitlines())} lines (--config prints them)"
    else:
        yield path, " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
