"""Linking a data set's folders from the store into the project, and writing down what was linked."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from detector.data.download.datasets import Part, parts_of
from detector.data.download.store import read_stamp
from detector.errors import DatasetError
from detector.whole_files import replacing

RECORD = "source.json"


def link(name: str, store: str | Path, data_root: str | Path = Path("data")) -> list[Path]:
    """Link the parts of a data set from the store below ``<data_root>/<name>``; write ``source.json`` there.

    ``<data_root>/<name>`` is a real folder; only its parts are links. What is there already is never
    replaced: a link to the same place is kept, anything else is an error, and then nothing is linked.

    Args:
        name: of the data set.
        store: folder of all data sets.
        data_root: the project's data folder.

    Returns:
        The links, those that were there already included.

    Raises:
        DatasetError: the data set is not in the store, a link is broken, or something else has the link's
            name.
    """
    parts = parts_of(name)
    place = Path(store).expanduser().absolute() / name
    root = Path(data_root) / name
    missing = [part.source for part in parts if part.required and not (place / part.source).is_dir()]
    if missing:
        raise DatasetError(
            f"{place}: found no {' and no '.join(missing)}, expected the data set {name!r}. Type "
            f"`detector download {name}`, or place it there, or name its store with --store or "
            "DETECTOR_DATASETS."
        )
    if root.is_symlink():
        raise DatasetError(
            f"{root}: found a link, expected a folder whose parts are links, because converted files go "
            "there too. "
            f"Remove the link and type `detector link {name}` again."
        )
    present = [part for part in parts if (place / part.source).is_dir()]
    for part in present:
        _check(root / part.name, place / part.source)
    root.mkdir(parents=True, exist_ok=True)
    for part in present:
        if not (root / part.name).is_symlink():
            (root / part.name).symlink_to(place / part.source, target_is_directory=True)
    _write_record(root / RECORD, describe(name, place, present))
    return [root / part.name for part in present]


def _check(target: Path, source: Path) -> None:
    """Raise unless ``target`` is free or links to ``source``."""
    if target.is_symlink():
        to = target.readlink()
        if not target.exists():
            raise DatasetError(
                f"{target}: found a broken link to {to}, expected a link to {source}. Remove it (the place "
                "it names is "
                "gone), then link again."
            )
        if target.resolve() != source.resolve():
            raise DatasetError(
                f"{target}: found a link to {to}, expected one to {source}. Remove it, or name its store "
                "with --store."
            )
    elif target.exists():
        raise DatasetError(
            f"{target}: found a {'folder' if target.is_dir() else 'file'}, expected a link to {source} or "
            "nothing. Move it "
            "away, then link again."
        )


def describe(name: str, place: Path, parts: list[Part]) -> dict[str, Any]:
    """What a data set consists of, the same on every machine.

    Its origin, and each part's files by name and size.
    """
    stamp = read_stamp(place) or {}
    record: dict[str, Any] = {"dataset": name, "origin": "placed by hand"}
    if "recipe" in stamp:
        record["origin"] = {"recipe": stamp["recipe"], "digest": stamp.get("digest")}
    elif "archives" in stamp:
        record["origin"] = {"archives": stamp["archives"], "digest": stamp.get("digest")}
    record["parts"] = {part.name: _listing(place / part.source) for part in parts}
    return record


def _listing(folder: Path) -> dict[str, Any]:
    """Number of files, bytes, and the sha256 of all names and sizes."""
    lines = []
    total = 0
    for base, _, files in os.walk(folder):
        for file in files:
            size = (Path(base) / file).stat().st_size
            total += size
            lines.append(f"{(Path(base) / file).relative_to(folder).as_posix()}\0{size}\n")
    digest = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    return {"files": len(lines), "bytes": total, "sha256_of_names_and_sizes": digest}


def _write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record whole, and not at all when it says the same already."""
    text = json.dumps(record, indent=2) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with replacing(path) as stream:
        stream.write(text.encode())
