"""Reading one Pascal VOC annotation file, with every problem named.

Boxes: xyxy as written in the file (VOC counts pixels from 1 and includes the last).
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from detector.data.converters.documents import nearest


@dataclass(frozen=True)
class VocObject:
    """One object: class name, (xmin, ymin, xmax, ymax) as written, and VOC's difficult flag."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass
class VocImage:
    """One image of a VOC folder.

    Attributes:
        stem: name in the split list.
        file_name: image file below JPEGImages.
        width, height: pixels.
        objects: the valid objects in the file's order.
        problems: what is wrong with the files; without an answer to these the image cannot be used.
        bad_objects: what is wrong with objects that were left out of ``objects``.
        empty_objects: objects left out because their box is a point or a line, which no metric can match.
    """

    stem: str
    file_name: str = ""
    width: int = 0
    height: int = 0
    objects: list[VocObject] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    bad_objects: list[str] = field(default_factory=list)
    empty_objects: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        """Number of objects in the file."""
        return len(self.objects) + len(self.bad_objects) + len(self.empty_objects)


def read_image(
    stem: str, *, folder: Path, file_name: str | None, classes: tuple[str, ...] | None
) -> VocImage:
    """Read one image's size and annotation.

    Args:
        stem: name in the split list.
        folder: holds JPEGImages and Annotations.
        file_name: the image in JPEGImages, None when there is none.
        classes: names allowed, None for any.
    """
    image = VocImage(stem)
    if file_name is None:
        image.problems.append(f"{stem} is listed but JPEGImages has no such image")
        return image
    image.file_name = file_name
    path = folder / "Annotations" / f"{stem}.xml"
    if not path.is_file():
        image.problems.append(f"{image.file_name} has no partner Annotations/{stem}.xml")
        return image
    try:
        tree = ET.parse(path).getroot()
    except (ET.ParseError, OSError, UnicodeDecodeError) as error:
        image.problems.append(f"Annotations/{path.name} is not XML ({error})")
        return image
    _read_size(image, tree, folder / "JPEGImages" / image.file_name)
    for number, node in enumerate(tree.iter("object"), start=1):
        place = f"Annotations/{path.name} object {number}"
        try:
            item = _read_object(node, classes)
        except ValueError as error:
            image.bad_objects.append(f"{place}: {error}")
            continue
        if item.box[0] == item.box[2] or item.box[1] == item.box[3]:
            image.empty_objects.append(place)
        else:
            image.objects.append(item)
    return image


def _read_size(image: VocImage, tree: ET.Element, path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            image.width, image.height = picture.size
    except (OSError, SyntaxError) as error:
        image.problems.append(f"JPEGImages/{path.name} cannot be read ({error})")
        return
    said = tree.findtext("size/width"), tree.findtext("size/height")
    # Some tools write 0 x 0 or nothing: then the picture itself decides.
    if None in said or {(t or "").strip() for t in said} <= {"", "0"}:
        return
    try:
        width, height = (round(float(text or "")) for text in said)
    except ValueError:
        image.problems.append(f"Annotations/{image.stem}.xml has the size {said}, expected two numbers")
        return
    if (width, height) != (image.width, image.height):
        image.problems.append(
            f"Annotations/{image.stem}.xml says {width} x {height} but the image is {image.width} x "
            f"{image.height}"
        )


def _read_object(node: ET.Element, classes: tuple[str, ...] | None) -> VocObject:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("no name")
    if classes is not None and name not in classes:
        raise ValueError(f"unknown class {name!r}{nearest(name, classes)}")
    box = node.find("bndbox")
    values = []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        # A plain tag is looked up in C, a path such as bndbox/xmin in Python: a third of the whole time.
        text = box.findtext(tag) if box is not None else None
        try:
            values.append(float(text or ""))
        except ValueError:
            raise ValueError(f"{tag} of {name!r} is {text!r}, expected a number") from None
    xmin, ymin, xmax, ymax = values
    if not all(math.isfinite(v) for v in values):
        raise ValueError(f"box of {name!r} is not finite")
    if xmax < xmin or ymax < ymin:
        raise ValueError(f"inverted box of {name!r}: {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}")
    return VocObject(
        name, (xmin, ymin, xmax, ymax), (node.findtext("difficult") or "0").strip() not in ("", "0")
    )
