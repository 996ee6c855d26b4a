"""Bringing a data set into the store: drawn, downloaded, or recognised where the user placed it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detector.data.download.datasets import Archive, Source, load_source, parts_of
from detector.errors import DatasetError, MachineError

STAMP = "source.json"
ProgressFor = Callable[[str], Callable[[int, int], None] | None]


def download(
    name: str,
    store: str | Path,
    *,
    source: str | Path | None = None,
    processes: int = 1,
    progress: ProgressFor | None = None,
) -> Path:
    """Make sure that a data set is in the store, whole and as its source file describes it.

    Args:
        name: of the data set.
        store: folder of all data sets; the data set's own is ``<store>/<name>``.
        source: the data set's source file, by default the project's (``configs/sources/<name>.yaml``).
        processes: worker processes for drawing.
        progress: given what is done ('draw sample', a file name), returns a callback of (done, total) or
            None.

    Returns:
        ``<store>/<name>``.

    Raises:
        DatasetError: the name is not known, something of the user's is in the way, the data set has to be
            placed by
            hand, or a download failed.
        MachineError: the disk is too small.
    """
    parts = parts_of(name)
    described = load_source(name, source)
    store = Path(store).expanduser().absolute()
    place = store / name
    store.mkdir(parents=True, exist_ok=True)
    with _lock(store / f".{name}.lock"):
        stamp = read_stamp(place)
        if stamp and stamp.get("digest") == described.digest() and stamp.get("files") == count_files(place):
            return place
        if not stamp and place.is_dir() and any(place.iterdir()):
            missing = [part.source for part in parts if part.required and not (place / part.source).is_dir()]
            if described.recipe or missing:
                raise DatasetError(_in_the_way(place, described, missing))
            return place
        if described.recipe:
            return _draw(place, described, processes, progress)
        if described.archives:
            return _download_archives(place, described, progress)
    raise DatasetError(
        f"{place}: found nothing, expected the data set {name!r}, placed by hand. {described.by_hand}"
    )


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


def _in_the_way(place: Path, described: Source, missing: list[str]) -> str:
    if described.recipe:
        return (
            f"{place}: found a folder that was not made from a recipe, expected nothing or an earlier "
            "drawing. Move it "
            "away or choose another store."
        )
    how = described.by_hand or "Move it away to have the data set downloaded."
    return f"{place}: found a folder without {', '.join(missing)}, expected the whole data set. {how}"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file lock; another process waits here, a killed one blocks nobody."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _draw(place: Path, described: Source, processes: int, progress: ProgressFor | None) -> Path:
    from detector.data.synthetic import write_cityscapes

    assert described.recipe is not None
    made = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    try:
        callback = progress(f"draw {described.dataset}") if progress else None
        write_cityscapes(made, recipe=described.recipe, processes=processes, progress=callback)
        _put_in_place(made, place, described, {"recipe": described.recipe.as_dict()})
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return place


def _put_in_place(made: Path, place: Path, described: Source, extra: dict[str, Any]) -> None:
    """Stamp a finished folder and swap it in; an older one of ours goes away."""
    stamp = {"dataset": described.dataset, "digest": described.digest(), "files": count_files(made), **extra}
    (made / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    if place.exists():
        place.rename(old)
    made.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _download_archives(place: Path, described: Source, progress: ProgressFor | None) -> Path:
    """Download all, extract each beside the place, swap in.

    Killed anywhere, the next call goes on from there.
    """
    from detector.fetch import fetch

    work = place.with_name(f".{place.name}.download")
    tree = work / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    _check_space(work, [a for a in described.archives if not _done_file(work, a).is_file()])
    for archive in described.archives:
        if _done_file(work, archive).is_file():
            continue
        callback = progress(archive.file_name) if progress else None
        target = work / archive.file_name
        fetch(archive.url, target, size=archive.size, checksum=archive.checksum, progress=callback)
        _unpack(target, work / "new", tree / archive.into)
        _done_file(work, archive).write_text(json.dumps([archive.size, archive.checksum]), encoding="utf-8")
        target.unlink()
    names = [archive.file_name for archive in described.archives]
    _put_in_place(tree, place, described, {"archives": names})
    shutil.rmtree(work, ignore_errors=True)
    return place


def _done_file(work: Path, archive: Archive) -> Path:
    return work / f"{archive.file_name}.done"


def _unpack(archive: Path, new: Path, into: Path) -> None:
    """Extract whole, then move file by file: two archives may fill one folder."""
    from detector.data.download.extract import extract

    shutil.rmtree(new, ignore_errors=True)
    extract(archive, new)
    for folder, _, files in os.walk(new):
        target = into / Path(folder).relative_to(new)
        target.mkdir(parents=True, exist_ok=True)
        for name in files:
            (Path(folder) / name).replace(target / name)
    shutil.rmtree(new)


def _check_space(work: Path, archives: list[Archive]) -> None:
    """The largest archive lies beside its content for a while; pictures do not shrink."""
    sizes = [archive.size or 0 for archive in archives]
    needed, free = sum(sizes) + max(sizes, default=0), shutil.disk_usage(work).free
    if free < needed:
        raise MachineError(
            f"{work}: found {free / 1e9:.1f} GB free, expected at least {needed / 1e9:.1f} GB for "
            f"{len(archives)} archives and "
            "their content. Free space, or choose another store."
        )
