"""The built-in data: deterministic street scenes in Cityscapes', Pascal VOC's and COCO's own formats."""

from __future__ import annotations

from detector.data.synthetic.cityscapes import write_cityscapes
from detector.data.synthetic.coco import write_coco
from detector.data.synthetic.recipe import SPLITS, Recipe
from detector.data.synthetic.scene import INSTANCE_CLASSES, Scene, draw_scene
from detector.data.synthetic.voc import write_voc

__all__ = [
    "INSTANCE_CLASSES",
    "SPLITS",
    "Recipe",
    "Scene",
    "draw_scene",
    "write_cityscapes",
    "write_coco",
    "write_voc",
]
