"""A folder of images without annotations to a COCO json file, for formatting results of unlabelled images.

Checked against MMDetection 2.28.2 tools/dataset_converters/images2coco.py; differs on purpose: ids start at
1, files are taken in sorted order, and excluded extensions work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detector.data.converters.documents import (
    Note,
    existing_folder,
    note_to_log,
    raise_problems,
    write_document,
)
from detector.data.parallel import run_ordered
from detector.errors import DatasetError


def convert(
    img_path: str | Path,
    classes: str | Path,
    out: str,
    *,
    exclude_extensions: Sequence[str] = (),
    nproc: int = 1,
    progress: Callable[[int, int], None] | None = None,
    note: Note = note_to_log,
) -> list[Path]:
    """Write ``<img_path>/../annotations/<out>`` with every image below ``img_path`` and no annotation.

    Args:
        img_path: folder searched to any depth; hidden files are passed over.
        classes: text file with one class name a line; category ids count from 0 in its order.
        out: file name that ends in json.
        exclude_extensions: file name endings to leave out, such as 'png' or '.bmp', upper or lower case.
        nproc: worker processes.
        progress: called with (images read, images in all).
        note: called with one line on what was found and written.

    Returns:
        The one file written.

    Raises:
        DatasetError: nothing to list, a file is no image, or no class is named.
    """
    if not out.endswith("json"):
        raise DatasetError(f"images2coco: output {out!r}, expected a name that ends in json. Rename it.")
    root = existing_folder(Path(img_path), "a folder of images", "Check the path.")
    names = _read_classes(Path(classes))
    endings = tuple(f".{e.lower().lstrip('.')}" for e in exclude_extensions)
    every = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    chosen = [path for path in every if not (endings and path.name.lower().endswith(endings))]
    results = list(run_ordered(_read_size, chosen, processes=nproc, progress=progress))
    problems = [
        f"{p} cannot be read as an image" for p, size in zip(chosen, results, strict=True) if size is None
    ]
    raise_problems(root, problems, "Remove the files, or leave their kind out with --exclude-extensions.")
    if not chosen:
        raise DatasetError(
            f"{root}: found no image, expected at least one. Check the path and the excluded endings."
        )
    images = []
    for number, (path, size) in enumerate(zip(chosen, results, strict=True), start=1):
        width, height = size or (0, 0)
        images.append({"id": number, "file_name": path.as_posix(), "width": width, "height": height})
    categories = [{"supercategory": "none", "id": i, "name": name} for i, name in enumerate(names)]
    document: dict[str, Any] = {
        "images": images,
        "annotations": [],
        "categories": categories,
        "type": "instance",
    }
    target = write_document(root.parent / "annotations" / out, document)
    skipped = len(every) - len(chosen)
    left = f", {skipped} left out by their ending" if skipped else ""
    note(f"{len(every)} files found{left}, {len(images)} images written, {len(names)} classes -> {target}")
    return [target]


def _read_classes(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}), expected one class name a line."
        ) from error
    if not names:
        raise DatasetError(
            f"{path}: found no name, expected one class name a line. Write the class names into it."
        )
    return names


def _read_size(path: Path) -> tuple[int, int] | None:
    """(width, height), or None for a file that is no image."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return int(picture.size[0]), int(picture.size[1])
    except (OSError, SyntaxError):
        return None
