"""Instance predictions for the Cityscapes test server: write, pack, check.

Per image one ``<base>_pred.txt`` with lines ``<mask file> <class id> <score>``, and per object one 8-bit png
of the image's size, 255 inside the object and 0 elsewhere. All files lie flat in one folder or zip.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from detector.errors import DatasetError
from detector.evaluation.annotations import ImageId, read_annotations
from detector.evaluation.files import write_bytes
from detector.evaluation.results import require_masks
from detector.structures import masks
from detector.structures.samples import Detections

_IMAGE_SUFFIX = "_leftImg8bit.png"
_FIRST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def write(
    results: Mapping[ImageId, Detections],
    *,
    ann_file: str | Path,
    class_names: Sequence[str],
    out_dir: str | Path,
) -> list[Path]:
    """Write text files, masks and ``<out_dir>.zip`` for every image of an annotation file.

    Returns:
        The text files, then the zip.
    """
    file = read_annotations(ann_file)
    names = {image_id: str(image["file_name"]) for image_id, image in file.images.items()}
    foreign = [image_id for image_id in results if image_id not in names]
    if foreign:
        raise DatasetError(f"{file.path}: found results for image {foreign[0]!r}, expected ids of this file")
    texts = write_predictions(results, file_names=names, class_names=class_names, out_dir=out_dir)
    return [*texts, pack(out_dir)]


def write_predictions(
    results: Mapping[ImageId, Detections],
    *,
    file_names: Mapping[ImageId, str],
    class_names: Sequence[str],
    out_dir: str | Path,
) -> list[Path]:
    """Write the text file and the masks of every image in ``file_names``; no results give an empty text.

    Files of an earlier call in ``out_dir`` (``*_pred.txt`` and the masks they name) are removed first.

    Returns:
        The text files, in the order of ``file_names``.

    Raises:
        DatasetError: a class is not one of Cityscapes' instance classes, a file name is not of its pattern,
        or masks are missing.
    """
    out_dir = Path(out_dir)
    class_ids = instance_class_ids(class_names)
    out_dir.mkdir(parents=True, exist_ok=True)
    _remove_old(out_dir)
    texts = []
    for image_id, file_name in file_names.items():
        base = base_name(file_name)
        lines = []
        if image_id in results:
            lines = _write_masks(
                results[image_id], base, class_names, class_ids, out_dir, where=f"image {file_name}"
            )
        texts.append(write_bytes(out_dir / f"{base}_pred.txt", "".join(lines).encode()))
    return texts


def instance_class_ids(class_names: Sequence[str]) -> list[int]:
    """Cityscapes' label id of each class.

    Raises:
        DatasetError: a name is not an evaluated instance class.
    """
    from cityscapesscripts.helpers.labels import labels

    known = {label.name: int(label.id) for label in labels if label.hasInstances and not label.ignoreInEval}
    unknown = [name for name in class_names if name not in known]
    if unknown:
        raise DatasetError(
            f"Cityscapes metric or submission: found classes {unknown}, expected some of {list(known)}"
        )
    return [known[name] for name in class_names]


def base_name(file_name: str) -> str:
    """``<city>_<sequence>_<frame>`` of an image file name.

    Raises:
        DatasetError: the name is not ``<city>_<sequence>_<frame>_leftImg8bit.png``.
    """
    name = Path(file_name).name
    base = name.removesuffix(_IMAGE_SUFFIX)
    if base == name or base.count("_") < 2 or " " in base:
        raise DatasetError(f"{file_name}: expected a file name <city>_<sequence>_<frame>{_IMAGE_SUFFIX}")
    return base


def pack(folder: str | Path, path: str | Path | None = None) -> Path:
    """Zip the text files and the masks they name, flat; by default as ``<folder>.zip``; deterministic."""
    import io

    folder = Path(folder)
    path = folder.with_name(f"{folder.name}.zip") if path is None else Path(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(_submission_files(folder)):
            entry = zipfile.ZipInfo(file.name, _FIRST_ZIP_DATE)
            entry.external_attr = 0o644 << 16
            stored = zipfile.ZIP_STORED if file.suffix == ".png" else zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes(), stored)
    return write_bytes(path, buffer.getvalue())


def check(path: str | Path, ann_file: str | Path) -> list[str]:
    """What a server would refuse in a folder of predictions; empty when nothing is wrong.

    Args:
        path: the folder with text files and masks.
        ann_file: COCO-format file of the split, for the images that must be there and their sizes.
    """
    folder, file = Path(path), read_annotations(ann_file)
    if not folder.is_dir():
        return [f"{folder}: no such folder"]
    sizes = {base_name(str(image["file_name"])): file.image_hw(i) for i, image in file.images.items()}
    problems = [
        f"{base}_pred.txt is missing" for base in sizes if not (folder / f"{base}_pred.txt").is_file()
    ]
    named: set[str] = set()
    for text in sorted(folder.glob("*_pred.txt")):
        base = text.name.removesuffix("_pred.txt")
        if base not in sizes:
            problems.append(f"{text.name}: no image of that name in {file.path.name}")
            continue
        for number, line in enumerate(text.read_text().splitlines(), start=1):
            found = _line_problem(line, folder, sizes[base], named)
            problems += [f"{text.name} line {number}: {found}"] if found else []
    known = {p.name for p in folder.glob("*_pred.txt")} | named
    problems += [f"{p.name}: no text file names it" for p in sorted(folder.iterdir()) if p.name not in known]
    return problems


def _line_problem(line: str, folder: Path, image_hw: tuple[int, int], named: set[str]) -> str | None:
    """What is wrong with one line and its mask; adds the mask to ``named``."""
    parts = line.split(" ")
    if len(parts) != 3:
        return f"found {len(parts)} fields, expected `<mask> <class id> <score>`"
    mask, class_id, score = parts
    if mask in named:
        return f"mask {mask} is named twice"
    named.add(mask)
    if Path(mask).name != mask:
        return f"mask {mask} lies in another folder, expected all files flat"
    if class_id not in _instance_ids():
        return f"class id {class_id} is not one of {sorted(_instance_ids())}"
    try:
        finite = math.isfinite(float(score))
    except ValueError:
        finite = False
    if not finite:
        return f"score {score} is not a finite number"
    pixels = cv2.imread(str(folder / mask), cv2.IMREAD_UNCHANGED) if (folder / mask).is_file() else None
    if pixels is None:
        return f"mask {mask} is missing or unreadable"
    if pixels.shape != image_hw:
        return f"mask {mask} has shape {pixels.shape}, expected {image_hw}"
    return None


def _instance_ids() -> set[str]:
    """The accepted class ids, as text."""
    from cityscapesscripts.helpers.labels import labels

    return {str(label.id) for label in labels if label.hasInstances and not label.ignoreInEval}


def _write_masks(
    detections: Detections,
    base: str,
    class_names: Sequence[str],
    class_ids: Sequence[int],
    out_dir: Path,
    *,
    where: str,
) -> list[str]:
    """Write one image's masks; returns the lines of its text file."""
    rles = require_masks(detections, where=where)
    lines = []
    scores = detections.scores.detach().cpu().float().numpy()
    for i, (rle, label) in enumerate(zip(rles, detections.labels.tolist(), strict=True)):
        if not 0 <= label < len(class_ids) or not math.isfinite(scores[i]):
            raise DatasetError(
                f"{where}: found label {label} with score {scores[i]}, expected labels below {len(class_ids)}"
            )
        name = f"{base}_{i}_{class_names[label].replace(' ', '-')}.png"
        ok, png = cv2.imencode(".png", masks.decode(rle) * np.uint8(255))
        if not ok:
            raise DatasetError(f"{where}: mask {i} cannot be written as png")
        (out_dir / name).write_bytes(png.tobytes())
        lines.append(f"{name} {class_ids[label]} {np.format_float_positional(scores[i])}\n")
    return lines


def _submission_files(folder: Path) -> Iterator[Path]:
    """The text files of a folder and the masks that they name."""
    for text in folder.glob("*_pred.txt"):
        yield text
        for line in text.read_text().splitlines():
            mask = folder / Path(line.split(" ")[0]).name
            if mask.is_file():
                yield mask


def _remove_old(folder: Path) -> None:
    """Remove what an earlier call wrote."""
    for path in list(_submission_files(folder)):
        path.unlink(missing_ok=True)
