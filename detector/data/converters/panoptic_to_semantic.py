"""COCO panoptic PNG and json to semantic maps, one 8-bit PNG per image, as HTC's semantic branch reads them.

Shapes: panoptic pictures (H, W, 3) RGB, of which R + 256 G + 65536 B is the segment's id and 0 is nothing;
semantic maps (H, W) uint8, 255 where nothing is.

Values checked against MMDetection 2.28.2 datasets/pipelines/loading.py, which makes the same map of a
panoptic picture while loading (``contiguous``), and against COCO-stuff's maps (``category``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.data.converters.documents import Note, existing_folder, note_to_log, raise_problems
from detector.data.converters.maps import read_map, write_map
from detector.data.parallel import run_ordered
from detector.errors import DatasetError

VOID = 255
SCHEMES = ("contiguous", "category")


@dataclass(frozen=True)
class Picture:
    """One image's panoptic annotation.

    Attributes:
        name: the PNG below the folder.
        image_hw: (height, width) of the image, None where the file does not say.
        segments: category id by segment id.
        repeated: segment ids listed more than once.
    """

    name: str
    image_hw: tuple[int, int] | None
    segments: dict[int, int]
    repeated: tuple[int, ...] = ()


@dataclass
class PictureResult:
    """What became of one picture: the categories written, or what is wrong."""

    categories: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def convert(
    annotations: str | Path,
    *,
    out_dir: str | Path,
    png_dir: str | Path | None = None,
    values: str = "contiguous",
    nproc: int = 1,
    progress: Callable[[int, int], None] | None = None,
    note: Note = note_to_log,
) -> list[Path]:
    """Write ``<out_dir>/<stem>.png`` for every annotated image.

    Args:
        annotations: such as ``panoptic_train2017.json``.
        out_dir: where the maps go; give it as ``seg_prefix``.
        png_dir: the panoptic PNG files; by default the folder beside the file, of its name without ``.json``.
        values: 'contiguous' numbers the categories from 0 in the file's order (things first in COCO's file,
            133 in all); 'category' writes the category id less 1, as COCO-stuff's maps do.
        nproc: worker processes.
        progress: called with (pictures done, pictures in all).
        note: called with one line on what was found and written.

    Returns:
        The maps, in the file's order.

    Raises:
        DatasetError: the file is not COCO panoptic, a category does not fit into 8 bits, or pictures are
            missing, damaged or hold other segments than the file lists; each is named.
    """
    path = Path(annotations)
    table, pictures = read_panoptic(path, values)
    folder = existing_folder(
        path.with_suffix("") if png_dir is None else Path(png_dir),
        "the folder of the panoptic PNG files",
        "Extract panoptic_<split>.zip there, or name the folder.",
    )
    work = partial(_convert_picture, folder, Path(out_dir), table)
    results = list(run_ordered(work, pictures, processes=nproc, progress=progress))
    advice = "Restore the named files from the archives; the maps of the other images are written."
    raise_problems(path, [problem for result in results for problem in result.problems], advice)
    found = sum(len(picture.segments) for picture in pictures)
    written = sum((result.categories for result in results), Counter[int]())
    note(
        f"{len(pictures)} images found, {len(results)} written; {found} segments found, "
        f"{written.total()} written, of {len(written)} of {len(table)} categories, "
        f"values 0 to {max(table.values())} and {VOID} -> {out_dir}"
    )
    return [_target(Path(out_dir), picture) for picture in pictures]


def read_panoptic(path: Path, values: str) -> tuple[dict[int, int], list[Picture]]:
    """The value of every category id, and the pictures, of a COCO panoptic file.

    Raises:
        DatasetError: see ``convert``.
    """
    try:
        document = json.loads(path.read_bytes())
        sizes = {image["id"]: (image["height"], image["width"]) for image in document.get("images", ())}
        ids = [int(category["id"]) for category in document["categories"]]
        pictures = [_picture(entry, sizes) for entry in document["annotations"]]
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: found nothing, expected a COCO panoptic json. Check the path."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: found a file that is not COCO panoptic ({type(error).__name__}: {error}), expected "
            "categories and annotations with file_name and segments_info. Give panoptic_<split>.json."
        ) from error
    if values not in SCHEMES:
        raise DatasetError(f"panoptic converter: values {values!r}, expected one of {', '.join(SCHEMES)}.")
    if len(set(ids)) < len(ids):
        raise DatasetError(f"{path}: a category id is listed twice, expected every one once")
    table = {id_: number if values == "contiguous" else id_ - 1 for number, id_ in enumerate(ids)}
    bad = {id_: value for id_, value in table.items() if not 0 <= value < VOID}
    if bad or not table:
        raise DatasetError(
            f"{path}: found {len(table)} categories, of which {list(bad)[:3]} do not fit into 8 bits; "
            f"expected at most {VOID}. Give --values contiguous, or fewer categories."
        )
    return table, pictures


def _picture(entry: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]]) -> Picture:
    listed = [int(segment["id"]) for segment in entry["segments_info"]]
    repeated = tuple(id_ for id_, count in Counter(listed).items() if count > 1)
    segments = {int(segment["id"]): int(segment["category_id"]) for segment in entry["segments_info"]}
    return Picture(str(entry["file_name"]), sizes.get(entry["image_id"]), segments, repeated)


def segment_ids(picture: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(H, W) segment ids of a (H, W, 3) RGB panoptic picture."""
    red, green, blue = (picture[:, :, i].astype(np.uint32) for i in range(3))
    return np.asarray(red + 256 * green + 65536 * blue, np.uint32)


def semantic_map(
    ids: NDArray[np.uint32], segments: Mapping[int, int], table: Mapping[int, int]
) -> tuple[NDArray[np.uint8], list[str]]:
    """The (H, W) map of a picture's ids, and what does not fit.

    Args:
        ids: (H, W) segment ids, 0 for nothing.
        segments: category id by segment id.
        table: value by category id.
    """
    present, inverse = np.unique(ids, return_inverse=True)
    problems = [f"segment {id_} has unknown category {c}" for id_, c in segments.items() if c not in table]
    unlisted = [int(id_) for id_ in present if id_ and int(id_) not in segments]
    problems += [f"segment {id_} of the picture is not in segments_info" for id_ in unlisted]
    missing = set(segments) - set(present.tolist())
    problems += [f"segment {id_} of segments_info has no pixel" for id_ in sorted(missing)]
    values = np.array([table.get(segments.get(int(id_), -1), VOID) for id_ in present], np.uint8)
    return values[inverse].reshape(ids.shape), problems


def _convert_picture(
    folder: Path, out_dir: Path, table: Mapping[int, int], picture: Picture
) -> PictureResult:
    """Write one map; problems are returned, so that all are named together."""
    path = folder / picture.name
    if not path.is_file():
        return PictureResult(problems=[f"{path} is missing"])
    try:
        ids = segment_ids(read_map(path, channels=3))
    except (OSError, ValueError) as error:
        return PictureResult(problems=[f"{path} {error}"])
    if picture.image_hw is not None and ids.shape != tuple(picture.image_hw):
        height, width = picture.image_hw
        return PictureResult(
            problems=[f"{path} is {ids.shape[1]} x {ids.shape[0]}, but its image is {width} x {height}"]
        )
    pixels, problems = semantic_map(ids, picture.segments, table)
    problems += [f"segment {id_} is listed twice" for id_ in picture.repeated]
    if problems:
        return PictureResult(problems=[f"{path}: {problem}" for problem in problems])
    write_map(_target(out_dir, picture), pixels)
    return PictureResult(categories=Counter(picture.segments.values()))


def _target(out_dir: Path, picture: Picture) -> Path:
    return out_dir / f"{PurePosixPath(picture.name).stem}.png"


def segment_picture(ids: Sequence[Sequence[int]] | NDArray[np.uint32]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB panoptic picture of (H, W) segment ids below 2**24; the inverse of ``segment_ids``."""
    array = np.asarray(ids, np.uint32)
    return np.stack([array & 255, (array >> 8) & 255, array >> 16], axis=2).astype(np.uint8)
