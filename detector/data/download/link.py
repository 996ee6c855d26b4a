"""Linking a data set's folders from the store into the project, and writing down what was linked."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from detector.data.download.datasets import Part, missing_parts, parts_of
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
            name; all such places are named.
    """
    parts = parts_of(name)
    store = Path(store).expanduser().absolute()
    root = Path(data_root) / name
    _require(name, store, root)
    if root.is_symlink():
        raise DatasetError(
            f"{root}: found a link, expected a folder whose parts are links, because converted files go "
            f"there too. Remove the link and type `detector link {name}` again."
        )
    links = [(_link_of(part, root), part.place(store, name), part) for part in parts]
    faults = [_fault(target, place, part) for target, place, part in links]
    if any(faults):
        raise DatasetError("\n".join(filter(None, faults)))
    root.mkdir(parents=True, exist_ok=True)
    made = []
    for target, place, part in links:
        taken = part.beside and target.exists() and not _leads_to(target, place)
        if place.is_dir() and not taken:
            if not target.is_symlink():
                target.symlink_to(place, target_is_directory=True)
            made.append(target)
    _write_record(root / RECORD, describe(name, store))
    return made


def _require(name: str, store: Path, root: Path) -> None:
    """Raise unless all required folders are in the store; links that lead nowhere any more are named."""
    missing = missing_parts(name, store)
    if not missing:
        return
    links = [_link_of(part, root) for part in parts_of(name)]
    broken = [f"{link} (to {link.readlink()})" for link in links if link.is_symlink() and not link.exists()]
    raise DatasetError(
        f"{store / name}: found no {' and no '.join(missing)}, expected the data set {name!r}. Type "
        f"`detector download {name}`, or place it there, or name its store with --store or DETECTOR_DATASETS."
        + (f" Broken links: {', '.join(broken)}." if broken else "")
    )


def _link_of(part: Part, root: Path) -> Path:
    return (root.parent if part.beside else root) / part.name


def _leads_to(target: Path, place: Path) -> bool:
    return target.is_symlink() and target.resolve() == place.resolve()


def _fault(target: Path, place: Path, part: Part) -> str:
    """Why a link cannot be made at ``target``, or an empty string."""
    if target.is_symlink() and not target.exists():
        return (
            f"{target}: found a broken link to {target.readlink()}, expected a link to {place}. Remove it "
            "(the place it names is gone), then link again."
        )
    if part.beside or not place.is_dir() or _leads_to(target, place):
        return ""
    if target.is_symlink():
        return (
            f"{target}: found a link to {target.readlink()}, expected one to {place}. Remove it, or name its "
            "store with --store."
        )
    if target.exists():
        return (
            f"{target}: found a {'folder' if target.is_dir() else 'file'}, expected a link to {place} or "
            "nothing. Move it away, then link again."
        )
    return ""


def describe(name: str, store: Path) -> dict[str, Any]:
    """What a data set consists of, the same on every machine.

    Its origin, and each part's files by name and size.
    """
    stamp = read_stamp(store / name) or {}
    record: dict[str, Any] = {"dataset": name, "origin": "placed by hand"}
    if "recipe" in stamp:
        record["origin"] = {"recipe": stamp["recipe"], "digest": stamp.get("digest")}
    elif "archives" in stamp:
        record["origin"] = {"archives": stamp["archives"], "digest": stamp.get("digest")}
    places = {part.name: part.place(store, name) for part in parts_of(name) if not part.beside}
    record["parts"] = {part: _listing(place) for part, place in places.items() if place.is_dir()}
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
