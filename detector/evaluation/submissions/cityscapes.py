"""Instance predictions for the Cityscapes test server: write, pack, check.

Per image one ``<base>_pred.txt`` with lines ``<mask file> <class id> <score>``, and per object one 8-bit png
of the image's size, 255 inside the object and 0 elsewhere. All files lie flat in one folder or zip.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from detector.errors import DatasetError
from detector.evaluation.annotations import AnnotationFile, ImageId, read_annotations
from detector.evaluation.files import write_bytes
from detector.evaluation.results import require_masks
from detector.evaluation.submissions.findings import Findings
from detector.evaluation.submissions.package import Package, check_flat, write_zip
from detector.structures import masks
from detector.structures.samples import Detections

IMAGE_SUFFIX = "_leftImg8bit.png"
PREDICTION_SUFFIX = "_pred.txt"


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
        texts.append(write_bytes(out_dir / f"{base}{PREDICTION_SUFFIX}", "".join(lines).encode()))
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
    base = name.removesuffix(IMAGE_SUFFIX)
    if base == name or base.count("_") < 2 or " " in base:
        raise DatasetError(f"{file_name}: expected a file name <city>_<sequence>_<frame>{IMAGE_SUFFIX}")
    return base


def pack(folder: str | Path, path: str | Path | None = None, *, max_bytes: int | None = None) -> Path:
    """Zip the text files and the masks they name, flat; by default as ``<folder>.zip``; deterministic."""
    folder = Path(folder)
    path = folder.with_name(f"{folder.name}.zip") if path is None else Path(path)
    files = ((file.name, file.read_bytes) for file in sorted(_submission_files(folder)))
    return write_zip(path, files, max_bytes=max_bytes)


def check(package: Package, file: AnnotationFile | None, findings: Findings) -> None:
    """Check the text files of a package and the masks that they name.

    Args:
        package: the submission.
        file: the images of the split; without it, nothing is known of images missing, and masks only have to
            be of one size.
        findings: where faults and notes go.
    """
    flat = check_flat(package, findings)
    texts = [name for name in flat if name.endswith(PREDICTION_SUFFIX)]
    sizes = None if file is None else image_sizes(file)
    if not texts:
        findings.add("layout", f"{package.path.name} holds no <image>{PREDICTION_SUFFIX}")
    for base in sizes or {}:
        if f"{base}{PREDICTION_SUFFIX}" not in texts:
            findings.add("missing", f"{base}{PREDICTION_SUFFIX}, the predictions of an image of the split")
    masks_of = _Masks(package, set(flat), findings)
    for text in texts:
        base = text.removesuffix(PREDICTION_SUFFIX)
        if sizes is not None and base not in sizes:
            findings.add("image", f"{text} has no image of that name in {file.path.name if file else ''}")
            continue
        _check_text(text, masks_of, None if sizes is None else sizes[base])
    for name in flat:
        if name not in texts and name not in masks_of.named:
            findings.add("unnamed", f"{name} is named by no text file")
    of = f" of {len(sizes)}" if sizes is not None else ""
    findings.notes.append(f"{len(masks_of.named)} masks on {len(texts)}{of} images")


def image_sizes(file: AnnotationFile) -> dict[str, tuple[int, int]]:
    """(height, width) by ``<city>_<sequence>_<frame>``."""
    return {base_name(str(image["file_name"])): file.image_hw(i) for i, image in file.images.items()}


class _Masks:
    """The masks of a package, each checked where a line names it."""

    def __init__(self, package: Package, flat: set[str], findings: Findings) -> None:
        self.package, self.flat, self.findings = package, flat, findings
        self.named: set[str] = set()
        self.size: tuple[int, int] | None = None  # of the first mask, where the split's file is not given
        self.class_ids = _instance_ids()

    def fault(self, mask: str, image_hw: tuple[int, int] | None) -> str | None:
        """What is wrong with a mask: 8 bits, one channel, the size of its image, undamaged."""
        if mask not in self.flat:
            return f"mask {mask} is missing"
        from PIL import Image

        try:
            # verify() reads the checksums of all chunks without unpacking the pixels: 100 times faster
            with Image.open(io.BytesIO(self.package.read(mask))) as picture:
                form, mode, (width, height) = picture.format, picture.mode, picture.size
                picture.verify()
        except (OSError, SyntaxError, DatasetError) as error:
            return f"mask {mask} is not a readable png ({error})"
        if form != "PNG" or mode not in ("L", "1"):
            return f"mask {mask} is a {form} of mode {mode}, expected a PNG of one channel with 8 bits"
        expected = image_hw or self.size or (height, width)
        self.size = self.size or (height, width)
        if (height, width) != expected:
            return f"mask {mask} is {width} x {height}, expected its image's {expected[1]} x {expected[0]}"
        return None


def _check_text(text: str, masks_of: _Masks, image_hw: tuple[int, int] | None) -> None:
    """Check every line of one text file."""
    try:
        lines = masks_of.package.read(text).decode("ascii").splitlines()
    except (DatasetError, UnicodeDecodeError) as error:
        masks_of.findings.add("file", f"{text} cannot be read as text ({error})")
        return
    for number, line in enumerate(lines, start=1):
        fault = _line_fault(line, masks_of, image_hw)
        if fault is not None:
            masks_of.findings.add(fault[0], f"{text} line {number}: {fault[1]}")


def _line_fault(line: str, masks_of: _Masks, image_hw: tuple[int, int] | None) -> tuple[str, str] | None:
    """(kind, message) of what is wrong with one line or its mask."""
    parts = line.split(" ")
    if len(parts) != 3:
        return "line", f"found {len(parts)} fields in {line[:60]!r}, expected `<mask> <class id> <score>`"
    mask, class_id, score = parts
    if Path(mask).name != mask:
        return "layout", f"mask {mask} lies in another folder, expected all files flat"
    if mask in masks_of.named:
        return "mask", f"mask {mask} is named twice"
    masks_of.named.add(mask)
    if class_id not in masks_of.class_ids:
        return "class id", f"class id {class_id} is not one of {', '.join(sorted(masks_of.class_ids))}"
    try:
        finite = math.isfinite(float(score))
    except ValueError:
        finite = False
    if not finite:
        return "score", f"score {score} is not a finite number"
    wrong = masks_of.fault(mask, image_hw)
    return None if wrong is None else ("mask", wrong)


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
    for text in folder.glob(f"*{PREDICTION_SUFFIX}"):
        yield text
        for line in text.read_text().splitlines():
            mask = folder / Path(line.split(" ")[0]).name
            if mask.is_file():
                yield mask


def _remove_old(folder: Path) -> None:
    """Remove what an earlier call wrote."""
    for path in list(_submission_files(folder)):
        path.unlink(missing_ok=True)
