"""Cityscapes instance maps to COCO json files.

Shapes: instance maps (H, W), values label id (stuff, group regions) or label id * 1000 + number.
Boxes: xywh, pixels, tight around the mask.

Checked against MMDetection 2.28.2 tools/dataset_converters/cityscapes.py; differs on purpose: ids start at 1
(COCO matching takes id 0 for "no match"), files are taken in sorted order, and a split that is not there is
noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.converters.documents import (
    Note,
    existing_folder,
    note_to_log,
    raise_problems,
    write_document,
)
from detector.data.converters.maps import read_map
from detector.data.parallel import run_ordered
from detector.errors import DatasetError

IMAGE_SUFFIX = "leftImg8bit.png"
# Ids from here on have instances in Cityscapes' label table.
FIRST_THING = 24


@dataclass(frozen=True)
class Frame:
    """One image with its ground-truth files, None where the split has none.

    Attributes:
        name: ``<city>/<stem>_leftImg8bit.png``.
        image, instances, labels: paths of the files.
        segm_name: ``<city>/<stem>_gtFine_labelIds.png``.
    """

    name: str
    image: Path
    instances: Path | None
    labels: Path | None
    segm_name: str


@dataclass
class FrameResult:
    """What one frame contributes, without ids, or what is wrong with it."""

    image: dict[str, Any] = field(default_factory=dict)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    problem: str | None = None


def convert(
    root: str | Path,
    *,
    out_dir: str | Path | None = None,
    img_dir: str = "leftImg8bit",
    gt_dir: str = "gtFine",
    nproc: int = 1,
    splits: Sequence[str] = ("train", "val", "test"),
    progress: Callable[[int, int], None] | None = None,
    note: Note = note_to_log,
) -> list[Path]:
    """Write ``instancesonly_filtered_gtFine_<split>.json`` for every split that has images.

    Args:
        root: folder that holds ``img_dir`` and ``gt_dir``.
        out_dir: where the files go, by default ``root``.
        img_dir: image folder below ``root``: ``<split>/<city>/*_leftImg8bit.png``.
        gt_dir: ground-truth folder below ``root``; without a folder for test, that file lists images only.
        nproc: worker processes.
        splits: which splits to look for.
        progress: called with (images read, images in all).
        note: called with one line per split: what was found and written, or that it is missing.

    Returns:
        The files written.

    Raises:
        DatasetError: no split has images, a file has no partner, cannot be read or has another size.
    """
    root = Path(root)
    out = root if out_dir is None else Path(out_dir)
    images = existing_folder(
        root / img_dir,
        "the folder of Cityscapes images",
        "Give the folder that holds leftImg8bit and gtFine.",
    )
    by_split = {split: find_frames(images / split, root / gt_dir / split) for split in splits}
    every = [frame for frames in by_split.values() for frame in frames]
    converted = run_ordered(convert_frame, every, processes=nproc, progress=progress)
    written = []
    for split, frames in by_split.items():
        if not frames:
            note(f"{split}: no images in {images / split}, skipped")
            continue
        results = list(islice(converted, len(frames)))
        problems = [r.problem for r in results if r.problem]
        raise_problems(
            images / split, problems, "Restore the named files from the archives, or remove the frames."
        )
        path = write_document(out / f"instancesonly_filtered_gtFine_{split}.json", assemble(results))
        note(f"{split}: {_summary(frames, results)} -> {path}")
        written.append(path)
    if not written:
        raise DatasetError(
            f"{images}: found no *_{IMAGE_SUFFIX} in {', '.join(f'{s}/<city>' for s in splits)}; expected at "
            "least "
            "one split. Check the folder given, or extract leftImg8bit_trainvaltest.zip there."
        )
    return written


def find_frames(image_dir: Path, truth_dir: Path) -> list[Frame]:
    """Frames of one split in sorted order; ``truth_dir`` may be missing for a test split."""
    with_truth = truth_dir.is_dir()
    if not with_truth and image_dir.name != "test" and image_dir.is_dir():
        existing_folder(
            truth_dir, "the ground truth of these images", "Extract gtFine_trainvaltest.zip there."
        )
    frames = []
    for path in sorted(image_dir.glob("*/*.png")):
        if not path.name.endswith(IMAGE_SUFFIX):
            raise DatasetError(
                f"{path}: found a PNG of another kind, expected names that end in {IMAGE_SUFFIX}. Move it "
                "away."
            )
        city, stem = path.parent.name, path.name[: -len(IMAGE_SUFFIX)]
        truth = {kind: truth_dir / city / f"{stem}gtFine_{kind}.png" for kind in ("instanceIds", "labelIds")}
        frames.append(
            Frame(
                name=f"{city}/{path.name}",
                image=path,
                instances=truth["instanceIds"] if with_truth else None,
                labels=truth["labelIds"] if with_truth else None,
                segm_name=f"{city}/{stem}gtFine_labelIds.png",
            )
        )
    return frames


def convert_frame(frame: Frame) -> FrameResult:
    """Read one frame's files; a problem is returned, not raised, so that all are named together."""
    from PIL import Image

    try:
        with Image.open(frame.image) as picture:
            width, height = picture.size
    except (OSError, SyntaxError) as error:
        return FrameResult(problem=f"{frame.name} cannot be read ({error})")
    record: dict[str, Any] = {"file_name": frame.name, "height": height, "width": width}
    if frame.instances is None or frame.labels is None:
        return FrameResult(image=record)
    for partner in (frame.instances, frame.labels):
        if not partner.is_file():
            return FrameResult(problem=f"{frame.name} has no partner {partner}")
    try:
        instances = read_map(frame.instances)
    except (OSError, ValueError) as error:
        return FrameResult(problem=f"{frame.instances} {error}")
    if instances.shape != (height, width):
        return FrameResult(
            problem=f"{frame.instances} is {instances.shape[1]} x {instances.shape[0]} but its image is "
            f"{width} x {height} (wide x high)"
        )
    record["segm_file"] = frame.segm_name
    annotations, left_out = instance_annotations(instances)
    return FrameResult(image=record, annotations=annotations, left_out=left_out)


def instance_annotations(instances: NDArray[Any]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Annotations of a (H, W) uint16 instance map without ids, ascending, and the names of those left out.

    The runs of all instances are found in one pass over the map in column order, which is the order of COCO's
    run lengths, so the cost does not grow with the number of instances.
    """
    from cityscapesscripts.helpers.labels import id2label
    from pycocotools import mask as coco_mask

    height, width = instances.shape
    flat = cv2.transpose(instances).ravel()  # a twentieth of numpy's time for a strided copy
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    values = flat[starts]
    lengths = np.diff(starts, append=flat.size)
    things = values >= FIRST_THING
    values, starts, lengths = values[things], starts[things], lengths[things]
    order = np.argsort(values, kind="stable")
    cuts = np.flatnonzero(np.diff(values[order])) + 1
    annotations = []
    left_out: Counter[str] = Counter()
    for runs in np.split(order, cuts) if len(order) else []:
        value = int(values[runs[0]])
        crowd = value < 1000
        label = id2label.get(value if crowd else value // 1000)
        if label is None or not label.hasInstances or label.ignoreInEval:
            left_out[label.name if label else f"unknown id {value}"] += 1
            continue
        begin, length = starts[runs], lengths[runs]
        counts = np.empty(2 * len(runs) + 1, np.int64)
        counts[0::2] = np.append(begin, flat.size) - np.concatenate([[0], begin + length])
        counts[1::2] = length
        if counts[-1] == 0:
            counts = counts[:-1]
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
        annotations.append(
            {
                "iscrowd": int(crowd),
                "category_id": int(label.id),
                "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                "area": int(length.sum()),
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
            }
        )
    return annotations, left_out


def assemble(results: Sequence[FrameResult]) -> dict[str, Any]:
    """The COCO document: ids from 1 in order; no ``annotations`` key where the split has none at all."""
    from cityscapesscripts.helpers.labels import labels

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results, start=1):
        images.append({"id": image_id, **result.image})
        for annotation in result.annotations:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    kept = [label for label in labels if label.hasInstances and not label.ignoreInEval]
    document: dict[str, Any] = {
        "images": images,
        "categories": [{"id": label.id, "name": label.name} for label in kept],
    }
    if annotations:
        document["annotations"] = annotations
    return document


def _summary(frames: Sequence[Frame], results: Sequence[FrameResult]) -> str:
    kept = [a for r in results for a in r.annotations]
    crowds = sum(a["iscrowd"] for a in kept)
    left_out = sum((r.left_out for r in results), Counter[str]())
    found = len(kept) + left_out.total()
    text = f"{len(frames)} images found, {len(results)} written; {found} instances found, {len(kept)} written"
    text += f" ({crowds} of them groups)" if crowds else ""
    if left_out:
        names = ", ".join(f"{count} {name}" for name, count in sorted(left_out.items()))
        text += f", left out because Cityscapes does not evaluate them: {names}"
    return (
        text
        if frames[0].instances is not None
        else f"{len(frames)} images found, {len(results)} written, no ground truth"
    )
