"""One street scene: background, objects with overlap, group regions, distractors, light and noise.

Boxes: pixels, x right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.data.synthetic.canvas import Canvas, Paint, Region
from detector.data.synthetic.recipe import SPLITS, Recipe
from detector.data.synthetic.shapes import FAMILIES, Family, bgr, draw_look, place

LABEL_IDS = {
    "static": 4, "dynamic": 5, "road": 7, "sidewalk": 8, "building": 11, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
    "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
INSTANCE_CLASSES = tuple(family.name for family in FAMILIES)
# What may stay visible of an object that others cover, so that no hopeless fragment is ground truth.
LEAST_VISIBLE = 0.45
LEAST_PIXELS = 60


@dataclass(frozen=True)
class Instance:
    """One annotated object or group: id in the instance map, pixels before and after others covered it."""

    name: str
    instance_id: int
    crowd: bool
    full_area: int
    visible_area: int


@dataclass(frozen=True)
class Scene:
    """A finished scene.

    Shapes: image (H, W, 3) uint8 BGR, labels (H, W) uint8 Cityscapes label ids, instances (H, W) uint16.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    regions: tuple[Region, ...]
    objects: tuple[Instance, ...]


def draw_scene(recipe: Recipe, split: str, index: int) -> Scene:
    """Scene ``index`` of a split: the same pixels for the same recipe, whatever was drawn before."""
    stream = np.random.SeedSequence([recipe.seed, SPLITS.index(split), index])
    rng = np.random.Generator(np.random.PCG64(stream))
    canvas = Canvas(recipe.height, recipe.width)
    horizon = round(recipe.height * (0.3 + 0.16 * float(rng.random())))
    _background(canvas, rng, horizon)
    _furniture(canvas, rng, horizon)
    _objects(canvas, rng, horizon)
    _light_and_noise(canvas, rng)
    names = {r.instance_id: r.label for r in canvas.regions if r.instance_id >= 24}
    objects = tuple(
        Instance(names[i].removesuffix("group"), i, i < 1000, canvas.full_area[i], canvas.visible[i])
        for i in sorted(names)
    )
    return Scene(canvas.image, canvas.labels, canvas.instances, tuple(canvas.regions), objects)


def _quad(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.int32]:
    return np.array([(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)], np.int32)


def _stuff(canvas: Canvas, label: str, paints: list[Paint]) -> None:
    canvas.paint(label, LABEL_IDS[label], LABEL_IDS[label], paints)


def _muted(rng: np.random.Generator, hue: float, value: float) -> tuple[int, int, int]:
    return bgr(
        hue + 30 * (float(rng.random()) - 0.5),
        0.1 + 0.25 * float(rng.random()),
        value * (0.8 + 0.3 * float(rng.random())),
    )


def _background(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    height, width = canvas.height, canvas.width
    unit = max(height // 48, 1)
    _stuff(
        canvas, "sky", [Paint(_quad(0, 0, width, horizon), _muted(rng, 205, 0.85), "fade", horizon // 4 + 1)]
    )
    left = -int(rng.integers(0, 20 * unit))
    while left < width:
        wide = int(rng.integers(12 * unit, 30 * unit))
        top = int(rng.integers(0, max(horizon - 6 * unit, 1)))
        kind = "vegetation" if rng.random() < 0.35 else "building"
        hue, texture = (
            (105, "checker") if kind == "vegetation" else (30, "rows" if rng.random() < 0.5 else "checker")
        )
        wall = Paint(
            _quad(left, top, left + wide, horizon),
            _muted(rng, hue, 0.5),
            texture,
            int(rng.integers(2, 5)) * unit,
        )
        if rng.random() < 0.85:
            _stuff(canvas, kind, [wall])
        left += wide
    kerb = horizon + round((height - horizon) * (0.08 + 0.18 * float(rng.random())))
    flat = "terrain" if rng.random() < 0.3 else "sidewalk"
    _stuff(
        canvas,
        flat,
        [
            Paint(
                _quad(0, horizon, width, kerb),
                _muted(rng, 90 if flat == "terrain" else 320, 0.5),
                "checker",
                3 * unit,
            )
        ],
    )
    _stuff(
        canvas,
        "road",
        [
            Paint(
                _quad(0, kerb, width, height), _muted(rng, 240, 0.38), "rows", int(rng.integers(6, 16)) * unit
            )
        ],
    )


def _furniture(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    """Poles, signs, lights and unlabelled distractors that share colours and textures with the objects."""
    unit = canvas.height / 192
    for _ in range(int(rng.integers(0, 3))):
        x, foot = int(rng.integers(0, canvas.width)), horizon + int(rng.integers(0, canvas.height - horizon))
        top, thick = max(foot - round(unit * int(rng.integers(50, 110))), 0), max(round(unit * 4), 2)
        _stuff(canvas, "pole", [Paint(_quad(x, top, x + thick, foot), _muted(rng, 0, 0.4))])
        label = "traffic sign" if rng.random() < 0.5 else "traffic light"
        half = round(unit * int(rng.integers(5, 10)))
        corners = [(x - half, top), (x + half, top), (x + half, top + 2 * half), (x - half, top + 2 * half)]
        if label == "traffic sign":
            corners = [(x, top - half), (x + half, top + half), (x - half, top + half)]
        _stuff(canvas, label, [Paint(np.array(corners, np.int32), bgr(float(rng.random()) * 360, 0.7, 0.8))])
    for _ in range(int(rng.integers(1, 5))):
        _distractor(canvas, rng, horizon, unit)


def _distractor(canvas: Canvas, rng: np.random.Generator, horizon: int, unit: float) -> None:
    size = unit * (10 + 34 * float(rng.random()))
    x, y = float(rng.random()) * canvas.width, horizon + float(rng.random()) * (canvas.height - horizon)
    corners = int(rng.integers(3, 8))
    turn = float(rng.random()) * 6.28
    star = rng.random() < 0.5
    radius = [size / 2 * (0.45 if star and i % 2 else 1.0) for i in range(corners * (2 if star else 1))]
    angle = [turn + 6.283185 * i / len(radius) for i in range(len(radius))]
    points = [
        (round(x + r * np.cos(a)), round(y + r * np.sin(a))) for r, a in zip(radius, angle, strict=True)
    ]
    texture = ("flat", "rows", "columns", "checker", "diagonal")[int(rng.integers(0, 5))]
    colour = bgr(float(rng.random()) * 360, 0.3 + 0.6 * float(rng.random()), 0.3 + 0.6 * float(rng.random()))
    label = "static" if rng.random() < 0.7 else "dynamic"
    _stuff(
        canvas,
        label,
        [
            Paint(
                np.array(points, np.int32), colour, texture, max(round(size / 8), 2), int(rng.integers(0, 64))
            )
        ],
    )


def _objects(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    """Between four and eight objects, far ones first; now and then a group region."""
    wanted = int(rng.integers(4, 9))
    scales = sorted(0.36 + 0.68 * float(rng.random()) for _ in range(wanted))
    serial = dict.fromkeys(INSTANCE_CLASSES, 0)
    if rng.random() < 0.15:
        _group(canvas, rng, horizon)
    for scale in scales:
        family = FAMILIES[int(rng.integers(0, len(FAMILIES)))]
        for _attempt in range(6):
            label_id = LABEL_IDS[family.name]
            paints = _object_paints(canvas, rng, family, scale, horizon)
            if _paint_object(canvas, family.name, label_id * 1000 + serial[family.name], paints):
                serial[family.name] += 1
                break


def _paint_object(canvas: Canvas, label: str, instance_id: int, paints: list[Paint]) -> bool:
    pixels = round(LEAST_PIXELS * canvas.height / 192)
    return canvas.paint(
        label, LABEL_IDS[label.removesuffix("group")], instance_id, paints,
        least_visible=LEAST_VISIBLE, least_pixels=pixels, least_inside=0.6,
    )  # fmt: skip


def _object_paints(
    canvas: Canvas, rng: np.random.Generator, family: Family, scale: float, horizon: int
) -> list[Paint]:
    high = family.height * scale * canvas.height / 192
    wide = high * (family.aspect[0] + (family.aspect[1] - family.aspect[0]) * float(rng.random()))
    depth = (scale - 0.36) / 0.68
    ground = canvas.height - horizon
    foot = horizon + ground * (0.15 + 0.75 * depth + 0.3 * (float(rng.random()) - 0.5))
    foot = min(max(foot, horizon + 0.05 * ground, high * 0.8), canvas.height * 1.04)
    left = float(rng.random()) * (canvas.width + 0.3 * wide) - 0.65 * wide
    return _family_paints(rng, family, (left, foot - high, wide, high))


def _family_paints(
    rng: np.random.Generator, family: Family, box: tuple[float, float, float, float]
) -> list[Paint]:
    look = draw_look(rng, family, box[3])
    return [
        Paint(
            place(part.points, box=box, look=look),
            look.colours[part.role],
            part.texture,
            look.period,
            look.phase,
        )
        for part in family.parts
    ]


def _group(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    """Several small objects of one class in a row as one group region (instance id below 1000)."""
    family = FAMILIES[(0, 2, 7)[int(rng.integers(0, 3))]]
    high = family.height * 0.34 * canvas.height / 192
    wide = high * family.aspect[0]
    left = float(rng.random()) * canvas.width * 0.8
    foot = max(horizon + 0.12 * (canvas.height - horizon), high)
    paints: list[Paint] = []
    for i in range(int(rng.integers(3, 6))):
        paints += _family_paints(rng, family, (left + 0.6 * wide * i, foot - high, wide, high))
    _paint_object(canvas, f"{family.name}group", LABEL_IDS[family.name], paints)


def _light_and_noise(canvas: Canvas, rng: np.random.Generator) -> None:
    """Gain, colour cast, slope from left to right, shadow band, 1-2-1 blur, grey noise: in whole numbers."""
    height, width = canvas.height, canvas.width
    cast = np.array([int(rng.integers(236, 277)) for _ in range(3)], np.int32)
    level, slope = int(rng.integers(165, 285)), int(rng.integers(-45, 46))
    columns = level + (slope * (2 * np.arange(width, dtype=np.int32) - width)) // width
    if rng.random() < 0.4:
        start = int(rng.integers(0, width))
        columns[start : start + width // 4] = (columns[start : start + width // 4] * 165) >> 8
    picture: NDArray[Any] = canvas.image.astype(np.uint16)
    picture = (picture[:-2] + 2 * picture[1:-1] + picture[2:]) >> 2
    picture = np.concatenate([picture[:1], picture, picture[-1:]])
    picture[:, 1:-1] = (picture[:, :-2] + 2 * picture[:, 1:-1] + picture[:, 2:]) >> 2
    gain = (columns[:, None] * cast) >> 8
    picture = (picture * gain[None].astype(np.uint32)) >> 8
    strength = int(rng.integers(1, 7))
    noise = rng.integers(-strength, strength + 1, size=(height, width, 1), dtype=np.int16)
    canvas.image = np.clip(np.minimum(picture, 255).astype(np.int16) + noise, 0, 255).astype(np.uint8)
