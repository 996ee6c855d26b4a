"""What reading data costs: the index of a COCO-size file in time and memory, and the loader in images/s.

    python benchmarks/loader.py make --folder DIR     write a synthetic annotation file and JPEG images
    python benchmarks/loader.py index --folder DIR    load time; memory of the index with 0, 1 and 8 workers
    python benchmarks/loader.py speed --folder DIR    loader against plain cv2.imread + cv2.resize in pairs

Memory is the anonymous proportional set size of the whole process tree: a page shared by k processes counts
1/k in each, and libraries do not count. The index part is the tree's with the large file minus that with a
file of 64 images.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from detector.data.datasets import build_dataset
from detector.data.datasets.coco import CocoDataset
from detector.data.datasets.names import COCO_CLASSES
from detector.data.loader import TrainLoader, build_train_loader
from detector.data.samplers import GroupBatchSampler
from detector.data.transforms import Pipeline, Sample
from detector.data.transforms.loading import LoadAnnotations

LARGE, SMALL = (118_000, 860_000), (64, 466)
SIZE_HW = (480, 640)
SCALE = (1333, 800)
NORM = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}


def write_annotations(path: Path, images: int, annotations: int, *, seed: int = 0) -> None:
    """Write a COCO-format file; polygons have about COCO's number of points (mean 24)."""
    rng = np.random.default_rng(seed)
    owners = np.sort(rng.integers(images, size=annotations))
    sides = rng.uniform(8, 200, (annotations, 2)).round(2)
    corners = (rng.random((annotations, 2)) * (np.array(SIZE_HW[::-1]) - sides)).round(2)
    classes, points = rng.integers(80, size=annotations), rng.integers(8, 41, size=annotations)
    with path.open("w") as file:
        listed = [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": SIZE_HW[0], "width": SIZE_HW[1]}
            for i in range(images)
        ]
        named = [{"id": i + 1, "name": name} for i, name in enumerate(COCO_CLASSES)]
        file.write(f'{{"images": {json.dumps(listed)}, "categories": {json.dumps(named)}, "annotations": [')
        for i in range(annotations):
            angles = np.linspace(0, 2 * np.pi, int(points[i]), endpoint=False)
            ring = corners[i] + sides[i] / 2 * (1 + np.stack([np.cos(angles), np.sin(angles)], axis=1))
            row = {
                "id": i + 1,
                "image_id": int(owners[i]),
                "category_id": int(classes[i]) + 1,
                "bbox": [*corners[i].tolist(), *sides[i].tolist()],
                "area": float(sides[i].prod()),
                "iscrowd": 0,
                "segmentation": [ring.round(2).reshape(-1).tolist()],
            }
            file.write((", " if i else "") + json.dumps(row))
        file.write("]}")


def write_images(folder: Path, count: int) -> None:
    """Write JPEG photographs of noise at several scales, about 100 kB each as COCO's are."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        image = np.zeros((*SIZE_HW, 3), np.float32)
        for cells, weight in ((4, 1.0), (16, 0.5), (64, 0.3), (256, 0.15)):
            grid = rng.random((cells * 3 // 4, cells, 3), dtype=np.float32)
            image += weight * cv2.resize(grid, SIZE_HW[::-1], interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(image / 1.95 * 255, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:012d}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])


def make(args: argparse.Namespace) -> None:
    """Write everything that the measurements read."""
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, (images, objects) in (("large", LARGE), ("small", SMALL)):
        write_annotations(args.folder / f"{name}.json", images, objects)
    write_annotations(args.folder / "speed.json", args.images, args.images * 7)
    write_images(args.folder / "images", args.images)
    sizes = {path.name: path.stat().st_size for path in sorted(args.folder.glob("*.json"))}
    jpeg = statistics.mean(path.stat().st_size for path in (args.folder / "images").iterdir())
    report({"files_bytes": sizes, "mean_jpeg_bytes": round(jpeg)})


class Blank:
    """Stands for reading a file: a small grey image, and a look at every polygon."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Fill the image."""
        assert sample.annotations is not None
        for segmentation in sample.annotations.segmentations:
            assert segmentation
        sample.image = np.zeros((32, 32, 3), np.float32)
        return sample


class MaskPipeline(Pipeline):
    """Makes the dataset keep polygons, although nothing draws them here."""

    @property
    def loads_masks(self) -> bool:
        """Always."""
        return True


def tree_pss() -> float:
    """MiB of anonymous memory of this process and all it started, shared pages counted in parts."""
    process = psutil.Process()
    total = 0
    for one in (process, *process.children(recursive=True)):
        rows = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(row.split()[1]) for row in rows if row.startswith("Pss_Anon:"))
    return total / 1024


def measure_index(args: argparse.Namespace) -> None:
    """In a fresh process: load once, then run over all samples with each number of workers."""
    begin, processor = time.perf_counter(), time.process_time()
    dataset = CocoDataset(
        ann_file=str(args.folder / f"{args.file}.json"), pipeline=MaskPipeline([Blank(), LoadAnnotations()])
    )
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    trees = {workers: _tree_at_work(dataset, workers) for workers in args.workers}
    report(
        {
            "file": args.file,
            "images": len(dataset),
            "objects": len(dataset.index.labels),
            "load_s": seconds,
            "load_cpu_s": processor,
            "peak_rss_mib_while_loading": peak,
            "tree_mib": {workers: round(found, 1) for workers, found in trees.items()},
        }
    )


def _tree_at_work(dataset: CocoDataset, workers: int) -> float:
    """Largest memory of the process tree over one epoch."""
    sampler = GroupBatchSampler(groups=dataset.aspect_groups(), samples_per_gpu=8, seed=0)
    loader = TrainLoader(dataset=dataset, sampler=sampler, workers=workers, training=True)
    largest = 0.0
    for done, _ in enumerate(loader, start=1):
        if done % 1000 == 0 or done == len(loader) - 1:
            largest = max(largest, tree_pss())
    loader.close()
    return largest


def index(args: argparse.Namespace) -> None:
    """The index part of the memory for several numbers of workers."""
    trees = {file: _fresh_process(args.folder, file, args.workers)["tree_mib"] for file in ("large", "small")}
    part = {w: trees["large"][str(w)] - trees["small"][str(w)] for w in args.workers}
    one = part[min(w for w in part if w > 0)]
    report(
        {"index_part_mib": part, "over_one_worker": {w: round(found / one, 4) for w, found in part.items()}}
    )


def _fresh_process(folder: Path, file: str, workers: Sequence[int]) -> dict[str, Any]:
    """Run ``measure_index`` in an interpreter of its own and show what it found."""
    command = [sys.executable, __file__, "one", "--folder", str(folder), "--file", file, "--workers"]
    done = subprocess.run([*command, *map(str, workers)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    report(found)
    return found


def plain(path: str) -> int:
    """What any loader has to do: decode a file and resize it as the pipeline does."""
    image = cv2.imread(path)
    factor = min(max(SCALE) / max(image.shape[:2]), min(SCALE) / min(image.shape[:2]))
    size = (int(image.shape[1] * factor + 0.5), int(image.shape[0] * factor + 0.5))
    return int(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).shape[0])


def section(folder: Path, *, masks: bool) -> dict[str, Any]:
    """The usual training pipeline."""
    keys = ["img", "gt_bboxes", "gt_labels", *(["gt_masks"] if masks else [])]
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks},
        {"type": "Resize", "img_scale": SCALE, "keep_ratio": True},
        {"type": "RandomFlip", "flip_ratio": 0.5},
        {"type": "Normalize", **NORM},
        {"type": "Pad", "size_divisor": 32},
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": keys},
    ]
    return {
        "type": "CocoDataset",
        "ann_file": str(folder / "speed.json"),
        "img_prefix": str(folder / "images"),
        "pipeline": steps,
    }


def speed(args: argparse.Namespace) -> None:
    """Images per second of the loader and of the plain loop, one after the other, several times."""
    cv2.setNumThreads(1)
    files = sorted(str(path) for path in (args.folder / "images").iterdir())
    for workers in args.workers:
        for masks in (False, True):
            dataset = build_dataset(section(args.folder, masks=masks))
            loader = build_train_loader(dataset, samples_per_gpu=2, workers_per_gpu=workers, seed=0)
            _rate(lambda: (len(b.metas) for b in loader))  # noqa: B023  (called at once; starts the workers)
            pairs = [
                (_rate(lambda: (len(b.metas) for b in loader)), _rate(lambda: _plain_pass(files, workers)))  # noqa: B023
                for _ in range(args.repeats)
            ]
            loader.close()
            found = {
                "workers": workers,
                "masks": masks,
                "loader_images_s": statistics.median(ours for ours, _ in pairs),
                "plain_images_s": statistics.median(bare for _, bare in pairs),
                "ratio": statistics.median(ours / bare for ours, bare in pairs),
                "ratios": [round(ours / bare, 3) for ours, bare in pairs],
            }
            report(found)


def _plain_pass(files: list[str], processes: int) -> Iterator[int]:
    """Count the images of the plain loop in as many processes as the loader has workers."""
    if processes == 0:
        for path in files:
            plain(path)
            yield 1
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("fork"), initializer=_one_thread) as pool:
        for _ in pool.map(plain, files, chunksize=8):
            yield 1


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _rate(run: Callable[[], Iterator[int]]) -> float:
    begin = time.perf_counter()
    count = sum(run())
    return count / (time.perf_counter() - begin)


def report(found: dict[str, Any]) -> None:
    """Print one line of JSON."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}
    sys.stdout.write(json.dumps(rounded) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Choose a measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, function in (("make", make), ("index", index), ("one", measure_index), ("speed", speed)):
        command = commands.add_parser(name)
        command.set_defaults(run=function)
        command.add_argument("--folder", type=Path, required=True)
        if name == "make":
            command.add_argument("--images", type=int, default=200, help="JPEG files for `speed`")
        if name == "one":
            command.add_argument("--file", choices=["large", "small"], required=True)
        if name != "make":
            default = [0, 2] if name == "speed" else [0, 1, 8]
            command.add_argument("--workers", type=int, nargs="+", default=default)
        if name == "speed":
            command.add_argument("--repeats", type=int, default=5, help="paired runs")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
