"""Pascal VOC (a devkit, or any folder laid out like one year of it) to COCO json or MMDetection's pickle.

Boxes: xyxy in VOC (from 1, inclusive); minus 1 as MMDetection takes them; xywh with w = x2 - x1 in the COCO
file.

Checked against MMDetection 2.28.2 tools/dataset_converters/pascal_voc.py; differs on purpose: image and
annotation ids start at 1, decimal coordinates are kept, a missing ``difficult`` is 0, and every invalid
object is named, and boxes without area are left out (the reference's reader drops them, its metric counts
them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from detector.data.class_names import VOC_CLASSES
from detector.data.converters.documents import Note, note_to_log, raise_problems, write_document
from detector.data.converters.voc_xml import VocImage, VocObject, read_image
from detector.data.parallel import run_ordered
from detector.errors import DatasetError

SPLITS = ("train", "val", "trainval", "test")


@dataclass(frozen=True)
class Source:
    """One list of images, ``ImageSets/Main/<split>.txt``; ``prefix`` goes before the file names."""

    folder: Path
    split: str
    prefix: str

    @property
    def list_file(self) -> Path:
        """The list of image names."""
        return self.folder / "ImageSets" / "Main" / f"{self.split}.txt"


@dataclass(frozen=True)
class Options:
    """What holds for all files of one conversion.

    Attributes:
        classes: names in label order, None until collected from the files.
        first_category: category id of the first class in a COCO file.
        shift: subtracted from every coordinate.
        skip_invalid: leave invalid objects out instead of raising.
        nproc: worker processes.
    """

    classes: tuple[str, ...] | None
    first_category: int
    shift: int
    skip_invalid: bool
    nproc: int


def convert(
    devkit: str | Path,
    *,
    out_dir: str | Path | None = None,
    classes: Sequence[str] | None = None,
    nproc: int = 1,
    out_format: str = "coco",
    one_based: bool = True,
    skip_invalid: bool = False,
    progress: Callable[[int, int], None] | None = None,
    note: Note = note_to_log,
) -> list[Path]:
    """Convert every split list that is there.

    A devkit gives ``voc07_<split>``, ``voc12_<split>`` and, with both years, ``voc0712_<split>`` (no joint
    test), with VOC's 20 classes and category ids from 0. Any folder that holds JPEGImages, Annotations and
    ImageSets/Main gives ``<split>``, with category ids from 1 and file names relative to JPEGImages.

    Args:
        devkit: the devkit or the folder.
        out_dir: where the files go, by default ``devkit``.
        classes: class names in order; by default VOC's 20 for a devkit, else all names found, sorted.
        nproc: worker processes.
        out_format: 'coco' (json) or 'pkl' (MMDetection's middle format).
        one_based: the files count pixels from 1, as VOC does, so 1 is subtracted; False takes boxes as they
            are.
        skip_invalid: leave objects with an inverted box or an unknown class out, instead of raising.
        progress: called with (images read, images in all).
        note: called with one line per split.

    Returns:
        The files written.

    Raises:
        DatasetError: the layout is not VOC's, nothing is listed, or files and objects are wrong; each is
            named.
    """
    if out_format not in ("coco", "pkl"):
        raise DatasetError(
            f"VOC converter: out_format {out_format!r}, expected 'coco' or 'pkl'. Choose one of them."
        )
    devkit = Path(devkit)
    out = devkit if out_dir is None else Path(out_dir)
    outputs, is_devkit = find_outputs(devkit)
    names = tuple(classes) if classes else VOC_CLASSES if is_devkit else None
    options = Options(names, 0 if is_devkit else 1, int(one_based), skip_invalid, nproc)
    read = _read_sources(
        list(dict.fromkeys(s for sources in outputs.values() for s in sources)), options, progress, note
    )
    if options.classes is None:
        found = {item.name for images in read.values() for image in images for item in image.objects}
        options = replace(options, classes=tuple(sorted(found)))
        note(f"classes, sorted by name: {', '.join(options.classes or ())}")
    written = []
    for stem, sources in outputs.items():
        if not all(source in read for source in sources):
            continue
        images = [(source.prefix, image) for source in sources for image in read[source]]
        if not images:
            note(f"{stem}: the list is empty, skipped")
            continue
        path = out / f"{stem}.{'json' if out_format == 'coco' else 'pkl'}"
        write_document(
            path, coco_document(images, options) if out_format == "coco" else pickle_records(images, options)
        )
        note(f"{stem}: {_summary([image for _, image in images])} -> {path}")
        written.append(path)
    if not written:
        raise DatasetError(
            f"{devkit}: found no image in ImageSets/Main/{{{','.join(SPLITS)}}}.txt; expected at least one "
            "list "
            "with one image name a line. Write the lists, or check the folder given."
        )
    return written


def find_outputs(devkit: Path) -> tuple[dict[str, tuple[Source, ...]], bool]:
    """Output stem -> its lists, for a devkit (True) or a single folder (False)."""
    years = [year for year in ("2007", "2012") if (devkit / f"VOC{year}").is_dir()]
    if years:
        outputs: dict[str, tuple[Source, ...]] = {}
        for year in years:
            prefix = f"VOC{year}/JPEGImages/"
            folder = devkit / f"VOC{year}"
            outputs |= {f"voc{year[2:]}_{split}": (Source(folder, split, prefix),) for split in SPLITS}
        if len(years) == 2:
            joint = [split for split in SPLITS if split != "test"]
            outputs |= {f"voc0712_{s}": outputs[f"voc07_{s}"] + outputs[f"voc12_{s}"] for s in joint}
        return outputs, True
    missing = [
        part for part in ("JPEGImages", "Annotations", "ImageSets/Main") if not (devkit / part).is_dir()
    ]
    if missing:
        inner = devkit / "VOCdevkit"
        hint = f"Did you mean {inner}?" if inner.is_dir() else "Give the folder that holds them."
        raise DatasetError(
            f"{devkit}: found no VOC2007 or VOC2012 and no {', '.join(missing)}; expected a VOC devkit, or "
            "one folder "
            f"with JPEGImages, Annotations and ImageSets/Main. {hint}"
        )
    return {split: (Source(devkit, split, ""),) for split in SPLITS}, False


def _read_sources(
    sources: Sequence[Source], options: Options, progress: Callable[[int, int], None] | None, note: Note
) -> dict[Source, list[VocImage]]:
    """Read every image once, though several lists may name it, and check each list that is there."""
    lists: dict[Source, list[str]] = {}
    for source in sources:
        if source.list_file.is_file():
            lines = source.list_file.read_text(encoding="utf-8").splitlines()
            lists[source] = [line.split()[0] for line in lines if line.split()]
        else:
            note(f"{source.prefix}{source.split}: no {source.list_file}, skipped")
    jobs = [
        (folder, stem) for folder, stem in dict.fromkeys((s.folder, stem) for s in lists for stem in lists[s])
    ]
    files = {source.folder: _image_files(source.folder) for source in lists}
    jobs_with_files = [(folder, stem, files[folder].get(stem)) for folder, stem in jobs]
    work = partial(_read_job, options.classes)
    images = dict(
        zip(jobs, run_ordered(work, jobs_with_files, processes=options.nproc, progress=progress), strict=True)
    )
    read = {source: [images[source.folder, stem] for stem in stems] for source, stems in lists.items()}
    for source in read:
        _check_list(source, lists[source], read[source], options)
    return read


def _image_files(folder: Path) -> dict[str, str]:
    """Stem -> image file name; of several with one stem the first by name."""
    return {path.stem: path.name for path in sorted((folder / "JPEGImages").iterdir(), reverse=True)}


def _read_job(classes: tuple[str, ...] | None, job: tuple[Path, str, str | None]) -> VocImage:
    folder, stem, file_name = job
    return read_image(stem, folder=folder, file_name=file_name, classes=classes)


def _check_list(source: Source, stems: Sequence[str], images: Sequence[VocImage], options: Options) -> None:
    problems = [problem for image in images for problem in image.problems]
    problems += [f"{stem} is listed twice" for stem, count in Counter(stems).items() if count > 1]
    raise_problems(source.list_file, problems, "Correct the named files or take the images off the list.")
    if not options.skip_invalid:
        bad = _grouped([problem for image in images for problem in image.bad_objects])
        advice = "Correct the files, give the classes, or leave such objects out with --skip-invalid."
        raise_problems(source.list_file, bad, advice)


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _box(item: VocObject, shift: int) -> list[int | float]:
    return [_number(value - shift) for value in item.box]


def _grouped(problems: Sequence[str]) -> list[str]:
    """The first place of every reason, and how many follow: a wrong class name may be everywhere."""
    places: dict[str, list[str]] = {}
    for problem in problems:
        place, _, reason = problem.partition(": ")
        places.setdefault(reason, []).append(place)
    return [
        f"{found[0]}: {reason}" + (f" (and in {len(found) - 1} more objects)" if len(found) > 1 else "")
        for reason, found in places.items()
    ]


def coco_document(images: Sequence[tuple[str, VocImage]], options: Options) -> dict[str, Any]:
    """COCO document; difficult objects come after an image's others and are crowds, as in the reference."""
    names = options.classes or ()
    ids = {name: options.first_category + i for i, name in enumerate(names)}
    annotations: list[dict[str, Any]] = []
    records = []
    for image_id, (prefix, image) in enumerate(images, start=1):
        size = {"height": image.height, "width": image.width}
        records.append({"id": image_id, "file_name": prefix + image.file_name, **size})
        for item in sorted(image.objects, key=lambda o: o.difficult):
            x1, y1, x2, y2 = _box(item, options.shift)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[item.name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [[x1, y1, x1, y2, x2, y2, x2, y1]],
                    "iscrowd": int(item.difficult),
                    "ignore": 0,
                }
            )
    categories = [{"supercategory": "none", "id": ids[name], "name": name} for name in names]
    return {"images": records, "type": "instance", "categories": categories, "annotations": annotations}


def pickle_records(images: Sequence[tuple[str, VocImage]], options: Options) -> list[dict[str, Any]]:
    """MMDetection's middle format: one dict per image, difficult objects under ``*_ignore``."""
    import numpy as np

    labels = {name: i for i, name in enumerate(options.classes or ())}
    records = []
    for prefix, image in images:
        ann: dict[str, Any] = {}
        for suffix, difficult in (("", False), ("_ignore", True)):
            chosen = [item for item in image.objects if item.difficult is difficult]
            boxes = [_box(item, options.shift) for item in chosen]
            ann[f"bboxes{suffix}"] = np.array(boxes, np.float32).reshape(-1, 4)
            ann[f"labels{suffix}"] = np.array([labels[item.name] for item in chosen], np.int64)
        name = prefix + image.file_name
        records.append({"filename": name, "width": image.width, "height": image.height, "ann": ann})
    return records


def _summary(images: Sequence[VocImage]) -> str:
    found = sum(image.found for image in images)
    kept = sum(len(image.objects) for image in images)
    hard = sum(item.difficult for image in images for item in image.objects)
    empty = sum(not image.objects for image in images)
    text = f"{len(images)} images listed, {len(images)} written; {found} objects found, {kept} written"
    text += f" ({hard} of them difficult)" if hard else ""
    bad = sum(len(image.bad_objects) for image in images)
    empty_boxes = [place for image in images for place in image.empty_objects]
    text += f", {bad} invalid left out" if bad else ""
    if empty_boxes:
        some = ", ".join(empty_boxes[:3]) + (", ..." if len(empty_boxes) > 3 else "")
        text += f", {len(empty_boxes)} without area left out ({some})"
    return text + (f"; {empty} images have no object" if empty else "")
