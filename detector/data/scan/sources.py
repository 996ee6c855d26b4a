"""From what the user names (a COCO file, a VOC folder, a config's data section) to what is scanned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.converters.voc_to_coco import Source, find_outputs
from detector.data.converters.voc_xml import VocImage, read_image
from detector.data.scan.contents import Contents, read_coco_contents
from detector.errors import DatasetError

#: splits of a config's data section that are scanned
CONFIG_SPLITS = ("train", "val", "test")


def contents_of_path(
    path: Path, images_dir: Path | None = None, *, title: str | None = None
) -> list[Contents]:
    """Data sets of a COCO-format file (one) or a VOC folder (one per split list).

    Args:
        path: a .json file, or a folder with JPEGImages, Annotations and ImageSets, or a devkit.
        images_dir: folder of the images of a COCO file; None leaves the files alone.
        title: name in the report instead of the file's.

    Raises:
        DatasetError: there is no such thing, or it cannot be read.
    """
    if path.is_dir():
        return voc_contents(path)
    if images_dir is not None and not images_dir.is_dir():
        raise DatasetError(
            f"--images {images_dir}: found no such folder; expected the one with the images of {path}. "
            "Correct it, or leave it out to check the annotations alone."
        )
    return [read_coco_contents(path, images_dir, title=title)]


def contents_of_config(data: Mapping[str, Any]) -> list[Contents]:
    """Data sets of a config's ``data`` section, each annotation file with its image folder once.

    Raises:
        DatasetError: the section names no data set, or a file cannot be read.
    """
    seen: set[tuple[Path, Path]] = set()
    found: list[Contents] = []
    for split in CONFIG_SPLITS:
        for number, (ann_file, images_dir) in enumerate(_named_files(data.get(split))):
            if (ann_file, images_dir) in seen:
                continue
            seen.add((ann_file, images_dir))
            title = split if number == 0 else f"{split} {number + 1}"
            if ann_file.suffix == ".txt":
                source = Source(images_dir, ann_file.stem, "")
                found.append(_voc_set(source, title, list_file=ann_file))
            else:
                found.append(read_coco_contents(ann_file, images_dir, title=title))
    if not found:
        raise DatasetError(
            "data: found no data set with an ann_file in train, val or test; expected at least one. Give a "
            "config that names its data, an annotation file or a VOC folder."
        )
    return found


def _named_files(node: Any) -> Iterator[tuple[Path, Path]]:
    """(annotation file, image folder) of a data set's section and of all that it wraps."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _named_files(item)
        return
    if not isinstance(node, Mapping):
        return
    files = node.get("ann_file")
    if files:
        listed = files if isinstance(files, list | tuple) else [files]
        prefixes = node.get("img_prefix") or ""
        folders = prefixes if isinstance(prefixes, list | tuple) else [prefixes] * len(listed)
        root = Path(node.get("data_root") or "")
        for file, folder in zip(listed, folders, strict=False):
            yield root / file, root / folder
    for key in ("dataset", "datasets"):
        yield from _named_files(node.get(key))


def voc_contents(root: Path) -> list[Contents]:
    """One data set per split list; trainval only where train and val have no lists of their own.

    Raises:
        DatasetError: the layout is not VOC's, or no list names an image.
    """
    outputs, _ = find_outputs(root)
    sources = [
        s for s in dict.fromkeys(s for group in outputs.values() for s in group) if s.list_file.is_file()
    ]
    splits = {(s.folder, s.split) for s in sources}
    kept = [
        s for s in sources if s.split != "trainval" or not {(s.folder, "train"), (s.folder, "val")} & splits
    ]
    found = [_voc_set(s, f"{s.folder.name} {s.split}" if s.prefix else s.split) for s in kept]
    found = [contents for contents in found if contents.names]
    if not found:
        raise DatasetError(
            f"{root}: found no image in ImageSets/Main/*.txt; expected lists with one image name a line."
        )
    return found


def _voc_set(source: Source, title: str, *, list_file: Path | None = None) -> Contents:
    """The images of one list, with their XML files."""
    listing = list_file or source.list_file
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(
            f"{listing}: cannot be read ({error.strerror or error}); expected image names, one a line."
        ) from error
    stems = [line.split()[0] for line in lines if line.split()]
    folder = source.folder / "JPEGImages"
    files = {p.stem: p.name for p in sorted(folder.iterdir(), reverse=True)} if folder.is_dir() else {}
    found = Contents(title, folder)
    images = []
    for stem in dict.fromkeys(stems):
        image = read_image(stem, folder=source.folder, file_name=files.get(stem), classes=None)
        image.file_name = image.file_name or f"{stem}.jpg"
        images.append(image)
    _fill_from_voc(found, images)
    for stem in {s for s in stems if stems.count(s) > 1} if len(stems) != len(set(stems)) else ():
        found.find("repeated-name", files.get(stem, stem), f"listed {stems.count(stem)} times")
    return found


def _fill_from_voc(found: Contents, images: Sequence[VocImage]) -> None:
    """Columns of a VOC list; pixels count from 0, as the converter takes them."""
    names = sorted({item.name for image in images for item in image.objects})
    ids = {name: i for i, name in enumerate(names, start=1)}
    rows, boxes, categories, crowd = [], [], [], []
    for row, image in enumerate(images):
        found.names.append(image.file_name)
        found.image_ids.append(image.stem)
        for text in image.bad_objects + [
            f"{place}: the box is a point or a line" for place in image.empty_objects
        ]:
            found.find(
                "degenerate-box" if "box" in text else "malformed-entry", image.file_name, text, row=row
            )
        for text in image.problems:
            _voc_problem(found, image, text, row)
        for item in image.objects:
            x1, y1, x2, y2 = (value - 1 for value in item.box)
            rows.append(row)
            boxes.append((x1, y1, x2 - x1, y2 - y1))
            categories.append(ids[item.name])
            crowd.append(item.difficult)
    sizes = [(image.height or np.nan, image.width or np.nan) for image in images]
    found.sizes = np.array(sizes, np.float64).reshape(-1, 2)
    found.rows, found.category_ids = np.array(rows, np.int64), np.array(categories, np.int64)
    found.boxes, found.crowd = np.array(boxes, np.float64).reshape(-1, 4), np.array(crowd, bool)
    found.annotation_ids = list(range(1, len(rows) + 1))
    found.segmentations = [None] * len(rows)
    found.categories = {key: name for name, key in ids.items()}


def _voc_problem(found: Contents, image: VocImage, text: str, row: int) -> None:
    """A problem of a VOC image as a finding; missing and unreadable files are found when they are decoded."""
    if "JPEGImages has no such image" in text or "cannot be read" in text:
        return
    kind = "wrong-size" if "but the image is" in text else "malformed-entry"
    found.find(kind, image.file_name, text, row=row)


def is_config(data: str) -> bool:
    """Whether DATA names a config: neither a folder nor a .json file."""
    return not Path(data).is_dir() and Path(data).suffix.lower() != ".json"


def check_request(
    data: str, images: Sequence[str], against: str | None, *, nproc: int, near: int | None
) -> None:
    """Refuse arguments of a scan that contradict each other.

    Raises:
        DatasetError: which, and what to give instead.
    """
    if nproc < 1:
        raise DatasetError(f"--nproc: found {nproc}; expected at least 1 process.")
    if near is not None and not 0 <= near <= 32:
        raise DatasetError(f"--near: found {near}; expected 0 to 32 of 64 bits. 4 is a good start.")
    files = [name for name in (data, against) if name is not None and Path(name).suffix.lower() == ".json"]
    if images and not files:
        raise DatasetError(
            f"--images: {data} names its image folders itself; expected none. Leave --images out."
        )
    if len(images) > len(files):
        raise DatasetError(
            f"--images: found {len(images)} folders for {len(files)} annotation files; expected at most one "
            "for each, that of DATA first."
        )
    if against and is_config(against):
        raise DatasetError(
            f"--against {against}: found neither a folder nor a .json file; expected a VOC folder or a "
            "COCO-format file to compare with."
        )


def contents_of_request(data: str, images: Sequence[str]) -> list[Contents]:
    """Data sets of DATA, a .json file or a folder; the first of ``images`` belongs to a file."""
    return contents_of_path(Path(data), Path(images[0]) if images else None)


def compared_contents(against: str, images: Sequence[str], *, taken: set[str]) -> list[Contents]:
    """Data sets to compare with by content; the last of ``images`` belongs to a file.

    Args:
        against: a .json file or a folder.
        images: image folders given, DATA's first.
        taken: titles that are used.

    Raises:
        DatasetError: there are no images to compare.
    """
    if not images and not Path(against).is_dir():
        raise DatasetError(
            "--against: found no --images, but the contents of files are compared. Give the image folder, or "
            "two: --images DIR_OF_DATA --images DIR_OF_OTHER."
        )
    found = contents_of_path(Path(against), Path(images[-1]) if images else None)
    for contents in found:
        contents.checked = False
        if contents.title in taken:
            contents.title = f"{contents.title} of {against}"
    return found
