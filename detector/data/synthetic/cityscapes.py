"""The scenes as Cityscapes lays its files out."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.parallel import run_ordered
from detector.data.synthetic.recipe import SPLITS, Recipe
from detector.data.synthetic.scene import Scene, draw_scene

# Made-up towns; frames are dealt to a split's towns in turn.
TOWNS = {"train": ("ashford", "brenton", "calder"), "val": ("dunmore", "elwick"), "test": ("farrow",)}


def write_cityscapes(
    root: Path, *, recipe: Recipe, processes: int = 1, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write leftImg8bit/{train,val,test} and gtFine/{train,val} below ``root``; test has no ground truth.

    Args:
        root: folder to fill, made when missing.
        recipe: what to draw.
        processes: worker processes; the bytes do not depend on it.
        progress: called with (images written, images in all).
    """
    jobs = [(split, index) for split in SPLITS for index in range(recipe.count(split))]
    for split, town in {(split, frame_name(split, index)[0]) for split, index in jobs}:
        for part in ("leftImg8bit", "gtFine") if split != "test" else ("leftImg8bit",):
            (root / part / split / town).mkdir(parents=True, exist_ok=True)
    for _ in run_ordered(partial(_write_frame, root, recipe), jobs, processes=processes, progress=progress):
        pass


def frame_name(split: str, index: int) -> tuple[str, str]:
    """Town and file stem of a frame, such as ('ashford', 'ashford_000000_000019')."""
    towns = TOWNS[split]
    town = towns[index % len(towns)]
    serial = index // len(towns)
    return town, f"{town}_{serial // 100:06d}_{serial % 100:06d}"


def polygons(scene: Scene) -> dict[str, Any]:
    """The scene as a ``_gtFine_polygons.json`` document: outlines back to front."""
    height, width = scene.labels.shape
    objects = [{"label": region.label, "polygon": region.polygon.tolist()} for region in scene.regions]
    return {"imgHeight": height, "imgWidth": width, "objects": objects}


def _write_frame(root: Path, recipe: Recipe, job: tuple[str, int]) -> None:
    split, index = job
    scene = draw_scene(recipe, split, index)
    town, stem = frame_name(split, index)
    write_png(root / "leftImg8bit" / split / town / f"{stem}_leftImg8bit.png", scene.image)
    if split == "test":
        return
    truth = root / "gtFine" / split / town
    write_png(truth / f"{stem}_gtFine_instanceIds.png", scene.instances)
    write_png(truth / f"{stem}_gtFine_labelIds.png", scene.labels)
    (truth / f"{stem}_gtFine_polygons.json").write_text(json.dumps(polygons(scene)) + "\n", encoding="utf-8")


def write_png(path: Path, picture: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write an 8- or 16-bit picture (BGR or one channel) losslessly."""
    _, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(data.tobytes())
