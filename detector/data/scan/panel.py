"""One picture of a data set: classes, box sizes, shapes, objects per image, and images with their boxes.

Boxes: xywh float64 pixels of the original image.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detector.data.scan import charts
from detector.data.scan.charts import INK, LINE, PAPER, SET_COLORS, SOFT, Frame
from detector.data.scan.contents import Contents
from detector.data.scan.findings import KINDS, NOTE
from detector.data.scan.run import Scan
from detector.data.transforms.loading import UnreadableImageError, read_image
from detector.structures import masks
from detector.structures.samples import Detections, Rle
from detector.visualize import draw_detections, palette_for

log = logging.getLogger(__name__)

WIDTH, MARGIN, GAP = 1560, 30, 40
CHART_HEIGHT = 460
PER_ROW, CELL_HEIGHT = 4, 300
LEGEND_HEIGHT = 86


@dataclass(frozen=True)
class Sample:
    """One image to show: its data set, its row and the line below it."""

    contents: Contents
    row: int
    caption: str


def draw_panel(scan: Scan, *, samples: int = 8) -> Image.Image:
    """The picture of a scan.

    Args:
        scan: what was found; data sets that were only compared with are left out.
        samples: how many images to show of each sort, as they come and with findings.
    """
    sets = [contents for contents in scan.sets if contents.checked]
    groups = [
        ("Images with their boxes", pick_samples(sets, samples)),
        ("Images with findings", pick_findings(scan, sets, samples)),
    ]
    rows = [(-(-len(found) // PER_ROW)) for _, found in groups]
    height = (
        LEGEND_HEIGHT
        + 2 * (CHART_HEIGHT + GAP)
        + sum(44 + r * (CELL_HEIGHT + 48) for r in rows if r)
        + MARGIN
    )
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(picture)
    _legend(draw, sets)
    _charts(draw, picture, sets)
    y = LEGEND_HEIGHT + 2 * (CHART_HEIGHT + GAP)
    for (title, found), count in zip(groups, rows, strict=True):
        if not found:
            continue
        charts.text(draw, (MARGIN, y), title, size=19)
        y += 36
        for i, sample in enumerate(found):
            width = (WIDTH - 2 * MARGIN - (PER_ROW - 1) * 16) // PER_ROW
            x = MARGIN + (i % PER_ROW) * (width + 16)
            _cell(
                draw, picture, Frame(x, y + (i // PER_ROW) * (CELL_HEIGHT + 48), width, CELL_HEIGHT), sample
            )
        y += count * (CELL_HEIGHT + 48) + 8
    return picture


def _legend(draw: ImageDraw.ImageDraw, sets: Sequence[Contents]) -> None:
    """Title, and a colour per data set with its numbers."""
    charts.text(draw, (MARGIN, 16), "Data scan", size=26)
    x = float(MARGIN)
    for contents, color in zip(sets, SET_COLORS, strict=False):
        words = f"{contents.title}: {len(contents.names):,} images, {len(contents.rows):,} objects"
        draw.rectangle((x, 56, x + 14, 70), fill=color)
        charts.text(draw, (x + 22, 54), words, size=15)
        x += charts.font(15).getlength(words) + 56


def _charts(draw: ImageDraw.ImageDraw, picture: Image.Image, sets: Sequence[Contents]) -> None:
    """The four charts, two by two."""
    width = (WIDTH - 2 * MARGIN - GAP) // 2
    left, right = MARGIN, MARGIN + width + GAP
    upper, lower = LEGEND_HEIGHT, LEGEND_HEIGHT + CHART_HEIGHT + GAP
    names, counts = class_counts(sets)
    charts.class_bars(draw, Frame(left, upper, width, CHART_HEIGHT), names, counts, SET_COLORS)
    boxes = np.concatenate([np.zeros((0, 2)), *(sound_sizes(contents) for contents in sets)])
    charts.size_map(draw, picture, Frame(right, upper, width, CHART_HEIGHT), boxes)
    _shape_chart(draw, Frame(left, lower, width, CHART_HEIGHT), boxes)
    per_image = [np.bincount(c.rows, minlength=len(c.names)) for c in sets]
    _crowding_chart(
        draw, Frame(right, lower, width, CHART_HEIGHT), np.concatenate([np.zeros(0, int), *per_image])
    )


def class_counts(sets: Sequence[Contents]) -> tuple[list[str], NDArray[np.int64]]:
    """Class names of all data sets, and (k, s) objects of each class in each data set."""
    names = list(dict.fromkeys(name for contents in sets for name in contents.categories.values()))
    place = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(sets)), np.int64)
    for column, contents in enumerate(sets):
        ids, found = np.unique(contents.category_ids, return_counts=True)
        for key, count in zip(ids.tolist(), found.tolist(), strict=True):
            if key in contents.categories:
                counts[place[contents.categories[key]], column] += count
    return names, counts


def sound_sizes(contents: Contents) -> NDArray[np.float64]:
    """(m, 2) widths and heights of the boxes that have an extent."""
    sizes = contents.boxes[:, 2:]
    with np.errstate(invalid="ignore"):
        return sizes[(np.isfinite(sizes) & (sizes > 0)).all(axis=1)]


def _shape_chart(draw: ImageDraw.ImageDraw, frame: Frame, sizes: NDArray[np.float64]) -> None:
    """Width against height, in steps of a quarter of a doubling."""
    ratios = np.log2(sizes[:, 0] / sizes[:, 1]) if len(sizes) else np.zeros(0)
    edges = np.arange(-4, 4.25, 0.25)
    counts, _ = np.histogram(np.clip(ratios, -3.99, 3.99), bins=edges)
    words = {-4: "<1:16", -3: "1:8", -2: "1:4", -1: "1:2", 0: "1:1", 1: "2:1", 2: "4:1", 3: "8:1", 4: ">16:1"}
    labels = [words.get(int(e), "") if float(e).is_integer() else "" for e in edges]
    median = f"median {2 ** float(np.median(ratios)):.2f}" if len(ratios) else "no boxes"
    charts.histogram(
        draw,
        frame,
        "Aspect ratios",
        f"{median}; logarithmic",
        counts,
        labels,
        axis="width : height of the box",
    )


def _crowding_chart(draw: ImageDraw.ImageDraw, frame: Frame, per_image: NDArray[np.int64]) -> None:
    """How many objects the images have."""
    largest = int(per_image.max(initial=1))
    step = next(s for k in range(9) for s in (10**k, 2 * 10**k, 5 * 10**k) if largest < 24 * s)
    bins = largest // step + 1
    counts = np.bincount(per_image // step, minlength=bins)
    every = max(1, -(-bins // 12))
    ranges = [str(i) if step == 1 else f"{i * step}" for i in range(bins)]
    labels = [label if i % every == 0 else "" for i, label in enumerate(ranges)]
    if step > 1:
        labels.append(str(bins * step) if bins % every == 0 else "")
    words = "no images"
    if len(per_image):
        none = int((per_image == 0).sum())
        words = f"mean {per_image.mean():.1f}, most {largest}, none in {none:,} images"
    charts.histogram(draw, frame, "Objects per image", words, counts, labels, axis="objects")


def pick_samples(sets: Sequence[Contents], count: int) -> list[Sample]:
    """Images spread evenly over the annotated ones of all data sets whose files are at hand."""
    places = [
        (contents, int(row))
        for contents in sets
        if contents.images_dir is not None
        for row in (np.unique(contents.rows) if len(contents.rows) else range(len(contents.names)))
    ]
    if not places:
        return []
    chosen = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int))
    found = []
    for i in chosen:
        contents, row = places[int(i)]
        objects = int((contents.rows == row).sum())
        found.append(Sample(contents, row, f"{contents.title}: {contents.names[row]}, {objects} objects"))
    return found


def pick_findings(scan: Scan, sets: Sequence[Contents], count: int) -> list[Sample]:
    """Images of the graver findings, different kinds first."""
    by_title = {contents.title: contents for contents in sets if contents.images_dir is not None}
    by_kind: dict[str, list[Sample]] = {}
    seen: set[tuple[str, int]] = set()
    for finding in scan.findings:
        skipped = KINDS[finding.kind].severity == NOTE or finding.kind in ("missing-file", "unreadable-image")
        key = (finding.data_set, finding.row)
        if skipped or finding.row < 0 or finding.data_set not in by_title or key in seen:
            continue
        if len(by_kind.setdefault(finding.kind, [])) < count:
            seen.add(key)
            caption = f"{finding.kind}: {finding.subject}, {finding.detail}"
            by_kind[finding.kind].append(Sample(by_title[finding.data_set], finding.row, caption))
    turns = [group[i] for i in range(count) for group in by_kind.values() if i < len(group)]
    return turns[:count]


def _cell(draw: ImageDraw.ImageDraw, picture: Image.Image, frame: Frame, sample: Sample) -> None:
    """One image with its boxes, and its caption in two lines at most."""
    drawn = draw_sample(sample.contents, sample.row)
    draw.rectangle((frame.x, frame.y, frame.x + frame.width, frame.y + frame.height), fill=(246, 247, 249))
    if drawn is None:
        charts.text(
            draw,
            (frame.x + frame.width / 2, frame.y + frame.height / 2),
            "no picture",
            color=SOFT,
            anchor="mm",
        )
    else:
        scale = min(frame.width / drawn.shape[1], frame.height / drawn.shape[0])
        size = (max(1, round(drawn.shape[1] * scale)), max(1, round(drawn.shape[0] * scale)))
        small = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        tile = Image.fromarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
        place = (frame.x + (frame.width - size[0]) // 2, frame.y + (frame.height - size[1]) // 2)
        picture.paste(tile, place)
    draw.rectangle((frame.x, frame.y, frame.x + frame.width, frame.y + frame.height), outline=LINE)
    for i, line in enumerate(_two_lines(sample.caption, frame.width)):
        charts.text(draw, (frame.x, frame.y + frame.height + 5 + 17 * i), line, size=13, color=INK)


def _two_lines(words: str, width: int) -> list[str]:
    """Words broken once between two of them, the second line cut to the width."""
    line = ""
    parts = words.split(" ")
    for i, word in enumerate(parts):
        longer = f"{line} {word}".strip()
        if line and charts.font(13).getlength(longer) > width:
            return [charts.shortened(line, width, 13), charts.shortened(" ".join(parts[i:]), width, 13)]
        line = longer
    return [charts.shortened(line, width, 13)]


def draw_sample(contents: Contents, row: int) -> NDArray[np.uint8] | None:
    """(h, w, 3) BGR image with its boxes and masks; None when it cannot be read."""
    assert contents.images_dir is not None, "samples are picked where files are at hand"
    try:
        image = read_image(str(contents.images_dir / contents.names[row]))
    except UnreadableImageError as error:
        log.debug("%s", error)
        return None
    if max(image.shape[:2]) > 1280:  # boxes and words are drawn at about the size they are shown in
        factor = 1280 / max(image.shape[:2])
    else:
        factor = max(1.0, 640 / max(image.shape[:2]))
    names = list(contents.categories.values())
    label = {key: i for i, key in enumerate(contents.categories)}
    rows = np.flatnonzero(contents.rows == row)
    boxes = contents.boxes[rows].copy()
    boxes[:, 2:] += boxes[:, :2]
    kept = np.isfinite(boxes).all(axis=1)
    labels = [label.get(int(key), len(names)) for key in contents.category_ids[rows][kept]]
    canvas = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    found = Detections(
        boxes=torch.from_numpy(boxes[kept] * factor).float(),
        scores=torch.ones(int(kept.sum())),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=_scaled_masks(contents, rows[kept], image.shape[:2], canvas.shape[:2]),
    )
    shown = [*names, "?"]
    return draw_detections(
        np.asarray(canvas, np.uint8), found, shown, palette=palette_for(shown), show_scores=False
    )


def _scaled_masks(
    contents: Contents, rows: NDArray[np.int64], hw: Sequence[int], shown_hw: Sequence[int]
) -> list[Rle] | None:
    """Masks at the size of the picture; None unless every object has one that fits the image."""
    found = []
    if any(_is_outline_of_box(contents, int(row)) for row in rows):
        return None
    for row in rows:
        segmentation = contents.segmentations[int(row)]
        if not segmentation or masks.segmentation_problem(segmentation, (hw[0], hw[1])) is not None:
            return None
        bitmap = masks.decode(masks.from_segmentation(segmentation, (hw[0], hw[1])))
        found.append(masks.encode(cv2.resize(bitmap, shown_hw[::-1], interpolation=cv2.INTER_NEAREST)))
    return found


def _is_outline_of_box(contents: Contents, row: int) -> bool:
    """Whether a mask is one outline of four points, as converters of boxes write it: it shows nothing new."""
    segmentation = contents.segmentations[row]
    return isinstance(segmentation, list) and len(segmentation) == 1 and len(segmentation[0]) == 8
