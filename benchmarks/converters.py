"""How fast the converters are, and what bounds them.

    uv run python benchmarks/converters.py voc FOLDER    images/s of VOC -> COCO, one process
    uv run python benchmarks/converters.py cityscapes    s/frame of Cityscapes -> COCO, 1 and 2 processes

Wall-clock medians, and the CPU seconds of all processes, which other load on the machine disturbs less.

The Cityscapes frames are made up: 2048 x 1024 pixels, each of four generated street scenes, in Cityscapes'
own files, with about as many instances as a real one has (real: 19.6 a frame in train and val).
"""

from __future__ import annotations

import argparse
import cProfile
import io
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from detector.data.converters import cityscapes_to_coco, voc_to_coco
from detector.data.parallel import run_ordered
from detector.data.synthetic import Recipe, draw_scene
from detector.data.synthetic.cityscapes import write_png

HEIGHT, WIDTH = 1024, 2048
FIELD_MINUTES, FIELD_IMAGES = 7, 500  # what users report for the reference's converter


def main() -> None:
    """Run the chosen measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=("voc", "cityscapes"))
    parser.add_argument("folder", nargs="?", help="voc: a VOC folder; cityscapes: where to keep the frames")
    parser.add_argument("--frames", type=int, default=30, help="Cityscapes frames to make (default: 30)")
    parser.add_argument("--copies", type=int, default=10, help="links to each, converted too (default: 10)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions; medians are printed (default: 5)")
    parser.add_argument("--nproc", type=int, nargs="+", default=[1, 2], help="processes (default: 1 2)")
    parser.add_argument("--top", type=int, default=12, help="entries of the profile (default: 12)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        (_voc if args.what == "voc" else _cityscapes)(args, Path(scratch))


def _voc(args: argparse.Namespace, scratch: Path) -> None:
    notes: list[str] = []

    def convert() -> None:
        voc_to_coco.convert(args.folder, out_dir=scratch / "out", note=notes.append)

    convert()
    _say(*notes)
    images = len({p.stem for p in (Path(args.folder) / "Annotations").glob("*.xml")})
    seconds, cpu = _median(convert, args.repeat)
    _say(
        f"voc: {images} images in {seconds:.3f} s, {images / seconds:.0f} images/s with 1 process "
        f"({cpu:.3f} s of CPU)"
    )
    _profile(convert, args.top)


def _cityscapes(args: argparse.Namespace, scratch: Path) -> None:
    root = Path(args.folder) if args.folder else scratch / "frames"
    jobs = [(root, index) for index in range(args.frames)]
    begun = time.perf_counter()
    instances = list(run_ordered(write_frame, jobs, processes=max(args.nproc)))
    _say(
        f"{args.frames} frames of {WIDTH} x {HEIGHT} made in {time.perf_counter() - begun:.0f} s, "
        f"{statistics.mean(instances):.1f} instances each"
    )
    frames = args.frames * args.copies
    for index in range(args.frames, frames):
        link_frame(root, index % args.frames, index)
    for nproc in args.nproc:
        seconds, cpu = _median(
            lambda nproc=nproc: cityscapes_to_coco.convert(
                root, out_dir=scratch / "out", splits=["train"], nproc=nproc
            ),
            args.repeat,
        )
        per_frame = seconds / frames
        field = FIELD_MINUTES * 60 / FIELD_IMAGES
        _say(
            f"cityscapes: {per_frame:.4f} s/frame with {nproc} process{'es' if nproc > 1 else ''} "
            f"({frames} frames in {seconds:.2f} s, {cpu / frames:.4f} s of CPU a frame; "
            f"{field / per_frame:.0f} times as fast as the field's {field:.2f} s/frame)"
        )
    maps = sorted((root / "gtFine" / "train" / "ashford").glob("*_instanceIds.png"))[: args.frames]
    seconds, cpu = _median(lambda: [frame_by_frame(path) for path in maps], min(args.repeat, 3))
    _say(
        f"the whole frame compared and encoded for each instance: {seconds / len(maps):.4f} s/frame with 1 "
        f"process ({cpu / len(maps):.4f} s of CPU)"
    )
    _profile(lambda: cityscapes_to_coco.convert(root, out_dir=scratch / "out", splits=["train"]), args.top)


def write_frame(job: tuple[Path, int]) -> int:
    """Write one frame of four scenes, two by two; returns its number of instances."""
    root, index = job
    recipe = Recipe(seed=4, height=HEIGHT // 2, width=WIDTH // 2)
    scenes = [draw_scene(recipe, "train", 4 * index + part) for part in range(4)]
    town, stem = "ashford", frame_stem(index)
    for part in ("leftImg8bit", "gtFine"):
        (root / part / "train" / town).mkdir(parents=True, exist_ok=True)
    instances = mosaic([renumbered(s.instances, 20 * part) for part, s in enumerate(scenes)])
    truth = root / "gtFine" / "train" / town
    write_png(
        root / "leftImg8bit" / "train" / town / f"{stem}_leftImg8bit.png", mosaic([s.image for s in scenes])
    )
    write_png(truth / f"{stem}_gtFine_instanceIds.png", instances)
    write_png(truth / f"{stem}_gtFine_labelIds.png", mosaic([s.labels for s in scenes]))
    return int((np.unique(instances) >= cityscapes_to_coco.FIRST_THING).sum())


def frame_by_frame(path: Path) -> list[dict[str, Any]]:
    """The annotations of an instance map by the plain way: a mask of the frame's size per instance."""
    with Image.open(path) as picture:
        instances = np.asarray(picture)
    found = []
    for value in np.unique(instances[instances >= cityscapes_to_coco.FIRST_THING]):
        rle = coco_mask.encode(np.asfortranarray((instances == value).astype(np.uint8)))
        found.append({"area": coco_mask.area(rle), "bbox": coco_mask.toBbox(rle), "counts": rle["counts"]})
    return found


def frame_stem(index: int) -> str:
    """Name of a frame without its kind."""
    return f"ashford_{index:06d}_000019"


def link_frame(root: Path, source: int, index: int) -> None:
    """Give the files of a frame a further name."""
    kinds = (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_instanceIds"), ("gtFine", "gtFine_labelIds"))
    for part, kind in kinds:
        folder = root / part / "train" / "ashford"
        target = folder / f"{frame_stem(index)}_{kind}.png"
        target.unlink(missing_ok=True)
        target.hardlink_to(folder / f"{frame_stem(source)}_{kind}.png")


def renumbered(instances: NDArray[np.uint16], offset: int) -> NDArray[np.uint16]:
    """Instance ids moved on, so that those of four scenes differ; stuff and groups stay."""
    return np.where(instances >= 1000, instances + offset, instances).astype(np.uint16)


def mosaic(parts: list[NDArray]) -> NDArray:
    """Four (h, w[, 3]) pictures as one of twice the sides."""
    return np.concatenate([np.concatenate(parts[:2], axis=1), np.concatenate(parts[2:], axis=1)])


def _median(work: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Medians of the seconds on the clock and of all processes' CPU seconds of several runs."""
    clock, cpu = [], []
    for _ in range(repeat):
        before, begun = os.times(), time.perf_counter()
        work()
        clock.append(time.perf_counter() - begun)
        cpu.append(sum(os.times()[:4]) - sum(before[:4]))
    return statistics.median(clock), statistics.median(cpu)


def _profile(work: Callable[[], object], top: int) -> None:
    """Print the functions that take the most time of their own."""
    profile = cProfile.Profile()
    profile.runcall(work)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(top)
    _say(*(line for line in text.getvalue().splitlines() if line.strip()))


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
