"""The scenes as a Pascal VOC devkit.

Boxes: xyxy in the XML files, 1-based and inclusive, as VOC counts.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.parallel import run_ordered
from detector.data.synthetic.recipe import SPLITS, Recipe
from detector.data.synthetic.scene import Instance, draw_scene

# Our class -> the VOC class that holds such objects. VOC has no truck: trucks stay unlabelled there.
VOC_NAMES = {
    "person": "person", "rider": "person", "car": "car", "bus": "bus", "train": "train",
    "motorcycle": "motorbike", "bicycle": "bicycle",
}  # fmt: skip


def write_voc(
    root: Path,
    *,
    recipe: Recipe,
    year: int = 2007,
    names: Mapping[str, str] = VOC_NAMES,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write VOC<year>/{JPEGImages,Annotations,ImageSets/Main} below ``root``, all splits annotated.

    Group regions and objects with less than half of their pixels visible are 'difficult'.

    Args:
        root: the devkit folder to fill.
        recipe: what to draw.
        year: of the devkit's folder.
        names: class name of each of our classes; a class left out is drawn but not annotated.
        processes: worker processes; the bytes do not depend on it.
        progress: called with (images written, images in all).
    """
    folder = root / f"VOC{year}"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    jobs = [(split, index) for split in SPLITS for index in range(recipe.count(split))]
    stems = {job: f"{serial:06d}" for serial, job in enumerate(jobs, start=1)}
    lists = {split: [stems[job] for job in jobs if job[0] == split] for split in SPLITS}
    lists["trainval"] = sorted(lists["train"] + lists["val"])
    for split, members in lists.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(
            "".join(f"{m}\n" for m in members), encoding="utf-8"
        )
    work = partial(_write_image, folder, recipe, dict(names))
    for _ in run_ordered(work, [(stems[job], *job) for job in jobs], processes=processes, progress=progress):
        pass


def _write_image(folder: Path, recipe: Recipe, names: dict[str, str], job: tuple[str, str, int]) -> None:
    stem, split, index = job
    scene = draw_scene(recipe, split, index)
    _, data = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    (folder / "JPEGImages" / f"{stem}.jpg").write_bytes(data.tobytes())
    tree = ET.Element("annotation")
    _add(tree, folder=folder.name, filename=f"{stem}.jpg")
    _add(ET.SubElement(tree, "source"), database="synthetic street scenes")
    _add(ET.SubElement(tree, "size"), width=recipe.width, height=recipe.height, depth=3)
    _add(tree, segmented=0)
    for item in scene.objects:
        if item.name in names:
            _add_object(tree, item, names[item.name], scene.instances)
    ET.indent(tree, "\t")
    (folder / "Annotations" / f"{stem}.xml").write_text(
        ET.tostring(tree, encoding="unicode") + "\n", encoding="utf-8"
    )


def _add_object(tree: ET.Element, item: Instance, name: str, instances: NDArray[np.uint16]) -> None:
    rows, cols = np.nonzero(instances == item.instance_id)
    left, top, right, bottom = (
        int(cols.min()) + 1,
        int(rows.min()) + 1,
        int(cols.max()) + 1,
        int(rows.max()) + 1,
    )
    cut = left == 1 or top == 1 or right == instances.shape[1] or bottom == instances.shape[0]
    hard = item.crowd or 2 * item.visible_area < item.full_area
    node = ET.SubElement(tree, "object")
    _add(node, name=name, pose="Unspecified", truncated=int(cut), difficult=int(hard))
    _add(ET.SubElement(node, "bndbox"), xmin=left, ymin=top, xmax=right, ymax=bottom)


def _add(node: ET.Element, **values: str | int) -> None:
    for tag, value in values.items():
        ET.SubElement(node, tag).text = str(value)
