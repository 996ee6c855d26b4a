"""Pre-flight checks of a data set that is built: files, filtering, classes, masks, maps and proposals.

Shapes: n images, m objects, C classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.data.datasets.base import DetectionDataset
from detector.data.datasets.index import NONE
from detector.data.transforms import Pipeline
from detector.engine.preflight_result import OK, PROBLEM, WARNING, Check, attempt
from detector.errors import ConfigError, DatasetError

#: headers read of each data set
SAMPLED = 16
#: a smaller share of images left after filtering is worth a look
LEFT_SHARE = 0.5
#: classes with fewer objects are named
FEW_OBJECTS = 10


def parts(source: Any) -> list[DetectionDataset]:
    """The annotation files' data sets inside any wrappers, each once."""
    if isinstance(source, DetectionDataset):
        return [source]
    inner = getattr(source, "dataset", None), *(getattr(source, "datasets", None) or ())
    found = [part for child in inner if child is not None for part in parts(child)]
    return list({id(part): part for part in found}.values())


def check_dataset(source: Any, split: str, *, listed: bool = True) -> list[Check]:
    """All checks of one split's data.

    Args:
        source: the data set, built; anything else has no checks.
        split: its name.
        listed: whether to look for every image; False where the loader does, as in training and testing.
    """
    found: list[Check] = []
    members = parts(source)
    for number, dataset in enumerate(members):
        name = split if len(members) == 1 else f"{split} {number + 1}"
        found += [check_images(dataset, name)] if listed else []
        found.append(check_sizes(dataset, name))
        if not dataset.test_mode:
            found.append(check_filtering(dataset, name))
        found += check_targets(dataset, name)
    if members:
        found.append(check_balance(members, split))
    return found


def check_images(dataset: DetectionDataset, name: str) -> Check:
    """Whether every image of the index is there, by the listings of its folders."""
    title = f"{name} images"
    missing = missing_files(dataset.img_prefix, list(_file_names(dataset)))
    if not missing:
        return Check(title, OK, f"{len(dataset):,} files in {dataset.img_prefix}")
    if dataset.corrupt == "skip" and len(missing) < len(dataset):
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        text = f"{dataset.img_prefix} lacks {len(missing):,} of {len(dataset):,} images: {first}"
        return Check(title, WARNING, text, "They are left out (corrupt='skip'); restore them if they matter.")

    def listed() -> str:
        dataset.check_images()
        return f"{len(dataset):,} files in {dataset.img_prefix}"

    return attempt(title, listed)


def check_sizes(dataset: DetectionDataset, name: str) -> Check:
    """Whether a sample of images has the stated sizes, by their headers."""
    chosen = sample_rows(len(dataset))
    wrong: list[str] = []
    looked = 0
    for row in chosen:
        info = dataset.image_info(int(row))
        found = _header_hw(dataset.img_prefix / info["file_name"])
        if found is None:
            continue
        looked += 1
        if found == "unreadable":
            wrong.append(f"{info['file_name']} is no image")
        elif found != (info["height"], info["width"]):
            stated = f"{info['width']} x {info['height']}"
            wrong.append(f"{info['file_name']} is stated {stated} and has {found[1]} x {found[0]}")
    title = f"{name} image headers"
    if not wrong:
        return Check(title, OK, f"{looked} of {looked} sampled have the stated size")
    return Check(
        title,
        WARNING,
        f"{len(wrong)} of {looked} sampled: {'; '.join(wrong[:3])}; expected images of the stated size",
        "Run `detector scan` on the annotation file and mend what it lists.",
    )


def sample_rows(count: int) -> NDArray[np.int64]:
    """Positions spread evenly over ``count`` images."""
    return np.unique(np.linspace(0, count - 1, min(SAMPLED, count)).round().astype(np.int64))


def _header_hw(path: Path) -> Any:
    """(height, width) as training sees it, 'unreadable', or None when there is no such file."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError, ValueError):
        return "unreadable"
    return (width, height) if turned else (height, width)


def check_filtering(dataset: DetectionDataset, name: str) -> Check:
    """The share of the file's images that training uses."""
    total = dataset.index.file_images or len(dataset)
    share = len(dataset) / max(1, total)
    text = f"{len(dataset):,} of {total:,} images are used ({100 * share:.0f} %)"
    title = f"{name} filtering"
    if share >= LEFT_SHARE:
        return Check(title, OK, text)
    reason = "images without an object of the classes or with a side below 32 pixels are left out"
    remedy = "Check classes against the annotations, or set filter_empty_gt=False to train on empty images."
    return Check(title, WARNING, f"{text}; {reason}", remedy)


def objects_per_class(members: list[DetectionDataset]) -> NDArray[np.int64]:
    """(C,) objects that training or evaluation counts."""
    count = len(members[0].class_names)
    total = np.zeros(count, np.int64)
    for dataset in members:
        total += np.bincount(dataset.index.labels[~dataset.index.ignored], minlength=count)[:count]
    return total


def check_balance(members: list[DetectionDataset], split: str) -> Check:
    """Objects of each class, and the classes that have none or few."""
    counts, names = objects_per_class(members), members[0].class_names
    title, total = f"{split} objects", int(counts.sum())
    if not total:
        if members[0].test_mode:
            return Check(title, OK, "no annotations: results can be formatted, not evaluated")
        return Check(
            title,
            PROBLEM,
            f"no object of the {len(names)} classes; expected some to learn from",
            "Check classes and annotations.",
            DatasetError,
        )
    order = np.argsort(-counts, kind="stable")
    shown = ", ".join(f"{names[i]} {counts[i]:,}" for i in order[:4])
    text = f"{total:,} objects of {len(names)} classes ({shown}{', ...' if len(names) > 4 else ''})"
    empty = [names[i] for i in np.flatnonzero(counts == 0)]
    if empty:
        listed = ", ".join(empty[:8]) + (", ..." if len(empty) > 8 else "")
        what = "cannot be learnt" if not members[0].test_mode else "are not measured"
        remedy = "Add examples, or take the classes out of classes=(...) and num_classes."
        return Check(title, WARNING, f"{text}; {len(empty)} classes have none and {what}: {listed}", remedy)
    few = [f"{names[i]} {counts[i]}" for i in order[::-1] if counts[i] < FEW_OBJECTS]
    if few and not members[0].test_mode:
        listed = ", ".join(few[:8]) + (", ..." if len(few) > 8 else "")
        remedy = "Add examples, or repeat their images (RepeatDataset)."
        return Check(title, WARNING, f"{text}; fewer than {FEW_OBJECTS} objects: {listed}", remedy)
    return Check(title, OK, text)


def check_targets(dataset: DetectionDataset, name: str) -> Iterator[Check]:
    """Masks, class maps and proposals that the pipeline asks for."""
    if dataset.pipeline.loads_masks:
        yield check_masks(dataset, f"{name} masks")
    if asks(dataset.pipeline, "with_seg"):
        yield check_class_maps(dataset, f"{name} class maps")
    if any(type(step).__name__ == "LoadProposals" for step in steps_of(dataset.pipeline)):
        yield check_proposals(dataset, f"{name} proposals")


def steps_of(pipeline: Pipeline) -> Iterator[Any]:
    """All steps, those inside others too."""
    for step in pipeline.transforms:
        yield step
        inner = getattr(step, "transforms", None)
        if isinstance(inner, Pipeline):
            yield from steps_of(inner)


def asks(pipeline: Pipeline, flag: str) -> bool:
    """Whether a step has a flag such as ``with_seg`` set."""
    return any(bool(getattr(step, flag, False)) for step in steps_of(pipeline))


def check_masks(dataset: DetectionDataset, title: str) -> Check:
    """Whether every object has a mask, where the pipeline draws masks."""
    found = dataset.index.segmentations
    lacking = len(dataset.index.labels) if found is None else int((found.kinds == NONE).sum())
    total = len(dataset.index.labels)
    if not lacking:
        return Check(title, OK, f"{total:,} of {total:,} objects have a mask")
    remedy = "Use annotations with segmentations, or a model and pipeline without masks (with_mask=False)."
    text = (
        f"{lacking:,} of {total:,} objects of {dataset.ann_file} have no segmentation; expected one for each"
    )
    return Check(title, PROBLEM, text, remedy, DatasetError)


def check_truth(cfg: Mapping[str, Any], dataset: Any) -> Iterator[Check]:
    """Whether the ground truth has the masks that the config's evaluation measures."""
    wanted = (cfg.get("evaluation") or {}).get("metric", "bbox")
    if "segm" not in ([wanted] if isinstance(wanted, str) else list(wanted)):
        return
    for part in parts(dataset):
        check = check_masks(part, "evaluation masks")
        if check.status != OK:
            remedy = "Set evaluation.metric='bbox', or evaluate on annotations with segmentations."
            yield replace(check, remedy=remedy)


def check_class_maps(dataset: DetectionDataset, title: str) -> Check:
    """Whether the class map of every image is there, by the listings of their folders."""
    if dataset.seg_prefix is None:
        text = f"the pipeline loads class maps (with_seg=True), but {dataset.where} gives no seg_prefix"
        remedy = "Set seg_prefix to the folder of the maps, or with_seg=False and no semantic head."
        return Check(title, PROBLEM, text, remedy, ConfigError)
    names = [str(Path(name).with_suffix(dataset.seg_suffix)) for name in _file_names(dataset)]
    missing = missing_files(dataset.seg_prefix, names)
    if not missing:
        return Check(title, OK, f"{len(names):,} files in {dataset.seg_prefix}")
    text = (
        f"{dataset.seg_prefix} lacks {len(missing):,} of {len(names):,} class maps: {', '.join(missing[:3])}"
    )
    remedy = "Fetch the maps (COCO: stuffthingmaps_trainval2017), or correct seg_prefix."
    return Check(title, PROBLEM, text, remedy, DatasetError)


def check_proposals(dataset: DetectionDataset, title: str) -> Check:
    """Whether there are stored proposals; their number was checked when they were read."""
    if dataset.proposals is None:
        text = f"the pipeline has LoadProposals, but {dataset.where} gives no proposal_file"
        return Check(title, PROBLEM, text, "Set proposal_file, or remove the step.", ConfigError)
    boxes, images = len(dataset.proposals.boxes), len(dataset.proposals)
    return Check(title, OK, f"{boxes:,} boxes for {images:,} images")


def _file_names(dataset: DetectionDataset) -> Iterator[str]:
    names = dataset.index.file_names
    return (names[i] for i in range(len(names)))


def missing_files(root: Path, names: list[str]) -> list[str]:
    """The names that are not files below ``root``; each folder is listed once."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        folder, base = os.path.split(name)
        if folder not in present:
            try:
                with os.scandir(root / folder) as entries:
                    present[folder] = {entry.name for entry in entries}
            except OSError:
                present[folder] = set()
        if base not in present[folder]:
            missing.append(name)
    return missing
