"""Semantic maps beside a COCO file, checked before HTC's semantic branch meets them in the third epoch.

COCO-stuff's ``stuffthingmaps_trainval2017.zip`` holds ``train2017`` and ``val2017`` with an 8-bit PNG per
image: category id less 1 (0..90 things, 91..181 stuff), 255 for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detector.data.converters.documents import Note, existing_folder, note_to_log, raise_problems
from detector.data.converters.maps import read_map
from detector.data.parallel import run_ordered
from detector.errors import DatasetError

STUFF_CLASSES = 182
VOID = 255


@dataclass(frozen=True)
class MapResult:
    """One map: the values it holds, or what is wrong with it."""

    values: tuple[int, ...] = ()
    problem: str | None = None


def check(
    folder: str | Path,
    annotations: str | Path,
    *,
    num_classes: int = STUFF_CLASSES,
    nproc: int = 1,
    progress: Callable[[int, int], None] | None = None,
    note: Note = note_to_log,
) -> None:
    """Check that every image of a COCO file has its map.

    Args:
        folder: the maps, such as ``stuffthingmaps/train2017``; the config's ``seg_prefix``.
        annotations: such as ``instances_train2017.json``.
        num_classes: values below it are classes; 182 in COCO-stuff.
        nproc: worker processes.
        progress: called with (maps read, maps in all).
        note: called with one line on what was found.

    Raises:
        DatasetError: the folder or the file is missing, or maps are missing, damaged, of another size or hold
            other values; each is named.
    """
    folder = existing_folder(
        Path(folder),
        "a folder of semantic maps such as stuffthingmaps/train2017",
        "Extract stuffthingmaps_trainval2017.zip into data/coco/stuffthingmaps.",
    )
    wanted = _wanted(Path(annotations))
    results = list(
        run_ordered(partial(_check_map, folder, num_classes), wanted, processes=nproc, progress=progress)
    )
    problems = [result.problem for result in results if result.problem]
    hint = "Extract the archive of this split, or give the annotations of the maps' split."
    raise_problems(folder, problems, hint)
    values = sorted({value for result in results for value in result.values} - {VOID})
    others = len(list(folder.glob("*.png"))) - len(results)
    note(
        f"{len(wanted)} images listed, {len(results)} maps found; {len(values)} classes, values "
        f"{f'{values[0]} to {values[-1]}' if values else 'none'} and {VOID}"
        + (f"; {others} other PNG files" if others > 0 else "")
    )


def _wanted(path: Path) -> list[tuple[str, int, int]]:
    """(name of the map, height, width) of every image."""
    try:
        images: Sequence[dict[str, Any]] = json.loads(path.read_bytes())["images"]
        stems = [PurePosixPath(image["file_name"]).stem for image in images]
        sizes = [(int(image["height"]), int(image["width"])) for image in images]
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: found nothing, expected a COCO json. Check the path.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: found a file that is not COCO's ({type(error).__name__}: {error}), expected images "
            "with file_name, height and width."
        ) from error
    return [(f"{stem}.png", *size) for stem, size in zip(stems, sizes, strict=True)]


def _check_map(folder: Path, num_classes: int, wanted: tuple[str, int, int]) -> MapResult:
    """Read one map; a problem is returned, so that all are named together."""
    name, height, width = wanted
    try:
        pixels = read_map(folder / name)
    except FileNotFoundError:
        return MapResult(problem=f"{name} is missing")
    except (OSError, ValueError) as error:
        return MapResult(problem=f"{name} {error}")
    if pixels.dtype != np.uint8:
        return MapResult(problem=f"{name} has {8 * pixels.dtype.itemsize} bits, expected 8")
    if pixels.shape != (height, width):
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        return MapResult(problem=f"{name} is {size}, but its image is {width} x {height} (wide x high)")
    values = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256)).tolist()
    bad = [value for value in values if num_classes <= value < VOID]
    if bad:
        return MapResult(problem=f"{name} holds {bad[:4]}, expected 0 to {num_classes - 1} and {VOID}")
    return MapResult(values=tuple(values))
