"""Bringing a data set into the store: drawn, downloaded, or recognised where the user placed it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detector.data.download.archives import ProgressFor, Ways, bring, is_held, require_room
from detector.data.download.datasets import default_mirrors, missing_parts, parts_of
from detector.data.download.sources import Archive, Source, load_source
from detector.errors import DatasetError
from detector.fetch import PATIENCE, Patience
from detector.whole_files import replacing

STAMP = "source.json"


def download(
    name: str,
    store: str | Path,
    *,
    source: str | Path | None = None,
    parts: Sequence[str] | None = None,
    mirrors: Sequence[str] | None = None,
    connections: int = 4,
    patience: Patience = PATIENCE,
    processes: int = 1,
    progress: ProgressFor | None = None,
) -> Path:
    """Make sure that a data set is in the store, whole and as its source file describes it.

    Args:
        name: of the data set.
        store: folder of all data sets; the data set's own is ``<store>/<name>``.
        source: the data set's source file, by default the project's (``configs/sources/<name>.yaml``).
        parts: names of the parts to have, by default those that the source file does not call optional;
            parts that are there already stay.
        mirrors: servers or folders that hold the archives by name, in place of the archives' own addresses;
            by default what ``DETECTOR_MIRROR`` says.
        connections: parts of one archive that are fetched at once.
        patience: how often and how long a server is tried.
        processes: worker processes for drawing.
        progress: given what is done ('draw sample', a file name), returns a callback of (done, total) or
            None.

    Returns:
        ``<store>/<name>``.

    Raises:
        DatasetError: the name or a part is not known, something of the user's is in the way, the data set
            has to be placed by hand, or a download failed.
        MachineError: the disk is too small.
    """
    parts_of(name)
    described = load_source(name, source)
    wanted = described.choose(parts)
    store = Path(store).expanduser().absolute()
    store.mkdir(parents=True, exist_ok=True)
    mirrors = default_mirrors() if mirrors is None else mirrors
    ways = Ways(mirrors, connections, patience, described.by_hand, progress)
    with _lock(store / f".{name}.lock"):
        place = _bring(store / name, described, wanted, ways, processes, by_name=parts is not None)
    for other, belonging in described.needs.items():
        download(
            other, store, parts=belonging, mirrors=mirrors, connections=connections, patience=patience,
            progress=progress,
        )  # fmt: skip
    return place


def read_stamp(place: Path) -> dict[str, Any] | None:
    """What ``download`` wrote about a data set it made, None for any other folder."""
    try:
        value = json.loads((place / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def count_files(place: Path) -> int:
    """Number of files of a data set, without the stamp."""
    return sum(len(files) for _, _, files in os.walk(place)) - int((place / STAMP).is_file())


def _bring(
    place: Path, described: Source, wanted: Sequence[Archive], ways: Ways, processes: int, *, by_name: bool
) -> Path:
    stamp = read_stamp(place)
    if not stamp and place.is_dir() and any(place.iterdir()):
        missing = [a.gives for a in wanted if not (place / a.gives).exists()]
        missing = missing if by_name else missing_parts(described.dataset, place.parent)
        missing = [path for path in missing if by_name or path.partition("/")[0] not in described.needs]
        if described.recipe or missing:
            raise DatasetError(_in_the_way(place, described, missing))
        return place
    if described.recipe:
        whole = stamp and stamp.get("files") == count_files(place)
        if not stamp or not whole or stamp.get("digest") != described.digest():
            _draw(place, described, processes, ways.progress)
    elif described.archives:
        _download(place, described, wanted, ways)
    else:
        raise DatasetError(
            f"{place}: found nothing, expected the data set {described.dataset!r}, placed by hand. "
            f"{described.by_hand}"
        )
    return place


def _in_the_way(place: Path, described: Source, missing: list[str]) -> str:
    if described.recipe:
        return (
            f"{place}: found a folder that was not made from a recipe, expected nothing or an earlier "
            "drawing. Move it away or choose another store."
        )
    how = described.by_hand or "Move it away to have the data set downloaded."
    return f"{place}: found a folder without {', '.join(missing)}, expected the whole data set. {how}"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file lock; another process waits here, a killed one blocks nobody."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _draw(place: Path, described: Source, processes: int, progress: ProgressFor | None) -> None:
    from detector.data.synthetic import write_cityscapes

    assert described.recipe is not None
    made = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    shutil.rmtree(made, ignore_errors=True)
    try:
        callback = progress(f"draw {described.dataset}") if progress else None
        write_cityscapes(made, recipe=described.recipe, processes=processes, progress=callback)
        _write_stamp(made, described, described.digest(), {"recipe": described.recipe.as_dict()})
        # An older drawing of ours goes away.
        if place.exists():
            place.rename(old)
        made.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _download(place: Path, described: Source, wanted: Sequence[Archive], ways: Ways) -> None:
    """Bring what is missing, archive by archive; the first time, the folder appears with all of them."""
    work = place.with_name(f".{place.name}.download")
    root = place if read_stamp(place) else work / "tree"
    missing = [archive for archive in wanted if not is_held(root, archive)]
    if missing or root != place:
        root.mkdir(parents=True, exist_ok=True)
        work.mkdir(exist_ok=True)
        require_room(work, missing)
        for archive in missing:
            bring(archive, work, root, ways)
        held = [archive for archive in described.archives if is_held(root, archive)]
        names = {"archives": [archive.file_name for archive in held]}
        _write_stamp(root, described, described.digest(held), names)
        if root != place:
            root.rename(place)
    shutil.rmtree(work, ignore_errors=True)


def _write_stamp(root: Path, described: Source, digest: str, more: dict[str, Any]) -> None:
    stamp = {"dataset": described.dataset, "digest": digest, "files": count_files(root), **more}
    with replacing(root / STAMP) as stream:
        stream.write(json.dumps(stamp, indent=2).encode() + b"\n")
