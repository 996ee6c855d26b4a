"""Reading VOC's list and XML files; every fault is named.

Boxes: xyxy as written, counted from 1, whole numbers.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.errors import DatasetError

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocFile:
    """One image.

    Attributes:
        file_name: image below img_prefix.
        height, width: pixels.
        names: k class names in the file's order.
        boxes: (k, 4) float64 whole numbers.
        difficult: k flags.
    """

    file_name: str
    height: int
    width: int
    names: list[str]
    boxes: NDArray[np.float64]
    difficult: list[bool]


def read_list(path: Path) -> list[str]:
    """The image names of a split, one per line.

    Raises:
        DatasetError: the file is missing, not text, empty or names an image twice.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: does not exist. A text file with an image name per line was expected, such as "
            "VOC2007/ImageSets/Main/trainval.txt. Prepare the data set first, or correct ann_file and "
            "data_root."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text ({error}). Correct ann_file.") from error
    if not names:
        raise DatasetError(f"{path}: names no image. A name per line was expected. Correct ann_file.")
    if names[0].startswith(("{", "[")):
        raise DatasetError(
            f"{path}: looks like JSON. This dataset type reads a text file of image names; use "
            "type='CocoDataset' for a COCO-format file."
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{path}: names the image {twice!r} more than once. Remove the double lines.")
    return names


class VocReader:
    """Reads the XML files of one folder.

    Args:
        root: holds the two folders.
        img_subdir: folder of the images.
        ann_subdir: folder of the XML files.
    """

    def __init__(self, root: Path, img_subdir: str, ann_subdir: str) -> None:
        self.root = root
        self.img_subdir = img_subdir
        self.ann_dir = root / ann_subdir
        try:
            present = os.listdir(root / img_subdir)  # noqa: PTH208  (names, not paths)
        except OSError:
            present = []
        self.images = {Path(name).stem: name for name in present}

    def read(self, name: str, *, image_in_folder: bool = False) -> VocFile:
        """Read ``<ann_subdir>/<name>.xml``.

        Args:
            name: as in the list.
            image_in_folder: whether the image lies in the folder that the file names, instead of
                ``img_subdir``.

        Raises:
            DatasetError: the file is missing, no XML, or an object has no name or no proper box.
        """
        path = self.ann_dir / f"{name}.xml"
        try:
            tree = ET.parse(path).getroot()
        except FileNotFoundError as error:
            raise DatasetError(
                f"{path}: does not exist, but the list names {name!r}. Every image needs its annotation "
                "file. Correct img_prefix, or remove the line."
            ) from error
        except (ET.ParseError, OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: is not XML ({error}). Make the file again.") from error
        folder = self.img_subdir
        if image_in_folder:
            folder = (tree.findtext("folder") or "").strip()
        file_name = self._file_name(name, folder)
        height, width = _size(tree, path, self.root / file_name)
        objects = tree.findall("object")
        boxes = [_box(node, path, i) for i, node in enumerate(objects, start=1)]
        return VocFile(
            file_name=file_name,
            height=height,
            width=width,
            names=[_name(node, path, i) for i, node in enumerate(objects, start=1)],
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            difficult=[(node.findtext("difficult") or "0").strip() not in ("", "0") for node in objects],
        )

    def annotates_none(self, names: list[str]) -> bool:
        """Whether no name has an XML file, as in the test split that VOC's server judges."""
        return not any((self.ann_dir / f"{name}.xml").exists() for name in names)

    def read_image(self, name: str) -> VocFile:
        """An image without an XML file: its size, and no object.

        Raises:
            DatasetError: the image is missing or unreadable.
        """
        file_name = self._file_name(name, self.img_subdir)
        try:
            height, width = _header_hw(self.root / file_name)
        except OSError as error:
            raise DatasetError(
                f"{self.root / file_name}: cannot be read ({error}), and {self.ann_dir / name}.xml does not "
                "exist; an image is needed, and for training and evaluation its annotation file. Correct "
                "img_prefix, or remove the line."
            ) from error
        return VocFile(file_name, height, width, names=[], boxes=np.zeros((0, 4)), difficult=[])

    def _file_name(self, name: str, folder: str) -> str:
        return os.path.join(folder, self.images.get(name, f"{name}.jpg"))  # noqa: PTH118  (a text)


def _header_hw(image: Path) -> tuple[int, int]:
    """(height, width) of an image by its header."""
    from PIL import Image

    with Image.open(image) as picture:
        return picture.size[1], picture.size[0]


def _size(tree: ET.Element, path: Path, image: Path) -> tuple[int, int]:
    """(height, width) as stated, else the image's."""
    stated = [(tree.findtext(f"size/{side}") or "0").strip() or "0" for side in ("height", "width")]
    try:
        height, width = (int(float(text)) for text in stated)
    except ValueError as error:
        raise DatasetError(
            f"{path}: has the size {stated} (height, width); expected whole numbers. Correct the file."
        ) from error
    if height > 0 and width > 0:
        return height, width
    try:
        return _header_hw(image)
    except OSError as error:
        raise DatasetError(
            f"{path}: states no size, and its image {image} cannot be read ({error}). Correct either."
        ) from error


def _name(node: ET.Element, path: Path, number: int) -> str:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise DatasetError(f"{path}: object {number} has no name. Correct the file.")
    return name


def _box(node: ET.Element, path: Path, number: int) -> list[int]:
    texts = [node.findtext(f"bndbox/{corner}") for corner in CORNERS]
    try:
        # whole numbers, as the reference reads them; some files write fractions
        box = [int(float(text or "")) for text in texts]
    except (ValueError, OverflowError) as error:
        raise DatasetError(
            f"{path}: object {number} has the box {dict(zip(CORNERS, texts, strict=True))}; expected four "
            "numbers. Correct the file."
        ) from error
    if box[2] < box[0] or box[3] < box[1]:
        raise DatasetError(
            f"{path}: object {number} has the inverted box {box} (xmin, ymin, xmax, ymax). Correct the file."
        )
    return box
