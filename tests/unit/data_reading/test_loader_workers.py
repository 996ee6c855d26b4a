"""What worker processes cost: threads, memory, and unreadable files named once."""

from __future__ import annotations

import gc
import json
import logging
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import torch

from detector.data import loader as loading
from detector.data import workers
from detector.data.datasets import build_dataset
from detector.data.datasets.coco import CocoDataset
from detector.data.loader import TrainLoader, build_test_loader, build_train_loader
from detector.data.samplers import GroupBatchSampler
from detector.data.transforms import Pipeline, Sample
from detector.data.transforms.loading import LoadAnnotations
from detector.errors import DetectorError

IMAGES, OBJECTS = 4000, 40_000


class Threads:
    """Writes the number of OpenCV's and torch's threads into the image."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample.image = np.full((8, 8, 3), cv2.getNumThreads(), np.float32)
        sample.image[..., 1] = torch.get_num_threads()
        return sample


class Polygons(Pipeline):
    """Keeps polygons in the index, looks at each of them, and draws nothing."""

    @property
    def loads_masks(self) -> bool:
        return True


class Look:
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        assert sample.annotations is not None
        assert all(len(parts[0]) == 60 for parts in sample.annotations.segmentations)
        sample.image = np.zeros((8, 8, 3), np.float32)
        return sample


def test_workers_use_one_thread_each(ten: Any) -> None:
    dataset = build_dataset(ten.section())
    dataset.pipeline = Pipeline([Threads(), LoadAnnotations()])
    loader = build_train_loader(dataset, samples_per_gpu=2, workers_per_gpu=2, seed=0)
    found = {tuple(batch.images[0, :2, 0, 0].tolist()) for batch in loader}
    loader.close()
    # cv2.setNumThreads(0) runs everything in the calling thread
    assert found <= {(0.0, 1.0), (1.0, 1.0)}


@pytest.fixture(scope="module")
def polygons(tmp_path_factory: Any) -> Path:
    rng = np.random.default_rng(0)
    sides = rng.integers(5, 100, (OBJECTS, 2)).tolist()
    shapes = (rng.random((OBJECTS, 60)) * 400).round(2).tolist()
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in range(IMAGES)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": i, "image_id": i % IMAGES, "category_id": 1, "bbox": [1, 1, *sides[i]], "area": 30,
             "segmentation": [shapes[i]]}
            for i in range(OBJECTS)
        ],
    }  # fmt: skip
    path = tmp_path_factory.mktemp("polygons") / "train.json"
    path.write_text(json.dumps(content))
    return path


def data_workers() -> list[psutil.Process]:
    """The loaders' living workers; other tests may have left children of other kinds, such as a tracker."""
    return [child for child in psutil.Process().children() if child.name() == "pt_data_worker"]


def private_memory(path: Path) -> tuple[int, int]:
    """(bytes of polygons, bytes that two workers share with nobody after two passes)."""
    dataset = CocoDataset(ann_file=str(path), classes="cell", pipeline=Polygons([Look(), LoadAnnotations()]))
    assert dataset.index.segmentations is not None
    size = dataset.index.segmentations.coordinates.nbytes
    sampler = GroupBatchSampler(groups=dataset.aspect_groups(), samples_per_gpu=50, seed=0)
    loader = TrainLoader(dataset=dataset, sampler=sampler, workers=2, training=True)
    gc.collect()
    gc.freeze()  # else the workers' collector touches, and so copies, whatever the tests before left behind
    try:
        passes = [sum(len(batch.metas) for batch in loader) for _ in range(2)]
        assert passes == [len(dataset)] * 2
        started = data_workers()
        assert len(started) == 2
        found = sum(worker.memory_full_info().uss for worker in started)
    finally:
        loader.close()
        gc.unfreeze()
    return size, found


def test_the_index_is_not_copied_by_workers(polygons: Path, tmp_path: Path) -> None:
    """Copied by both workers the arrays would take twice their size, as Python objects 80 MB in each.

    Between, for what the processes of a long test session touch by themselves: up to 13 MB were seen.
    """
    content = json.loads(polygons.read_text())
    few = {
        key: [row for row in rows if row.get("image_id", row["id"]) < 100] for key, rows in content.items()
    }
    (tmp_path / "few.json").write_text(json.dumps(few))
    del content, few
    _, without = private_memory(tmp_path / "few.json")
    size, found = private_memory(polygons)
    assert size == 8 * 60 * OBJECTS
    assert found - without < 1.25 * size, f"{found - without} bytes are copies, of {size} bytes of polygons"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_test_image_is_left_out_and_named_once(ten: Any, workers: int, caplog: Any) -> None:
    (ten.root / "images" / "3.png").write_bytes(b"no image")
    dataset = build_dataset(ten.section(train=False, corrupt="skip"), test_mode=True)
    loader = build_test_loader(dataset, samples_per_gpu=2, workers_per_gpu=workers)
    with caplog.at_level(logging.WARNING):
        passes = [[meta.image_id for views in loader for meta in views[0].metas] for _ in range(2)]
    loader.close()
    assert passes == [[0, 1, 2, 4, 5, 6, 7, 8, 9]] * 2
    assert caplog.text.count("3.png") == 1


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Let the first ``count`` workers that start stand still for ever."""
    warm_up = workers._warm_up

    def hang(count: int) -> None:
        def start() -> None:
            for number in range(count):
                try:
                    (tmp_path / f"hung{number}").open("x").close()
                except FileExistsError:
                    continue
                time.sleep(1000)
            warm_up()

        monkeypatch.setattr(workers, "_warm_up", start)
        monkeypatch.setattr(workers, "PATIENCE", 1.0)

    return hang


def test_a_worker_that_stands_still_at_its_start_is_replaced(ten: Any, hanging: Any, caplog: Any) -> None:
    loader = build_train_loader(
        build_dataset(ten.section()), samples_per_gpu=2, workers_per_gpu=2, seed=0, shuffle=False
    )
    hanging(1)
    with caplog.at_level(logging.WARNING):
        found = [meta.image_id for batch in loader for meta in batch.metas]
        again = [meta.image_id for batch in loader for meta in batch.metas]
    left = len(data_workers())
    loader.close()
    assert sorted(found) == sorted(again) == list(range(10))
    assert left == 2
    assert caplog.text.count("did not start and are replaced") == 1


def test_workers_that_never_start_are_an_error(ten: Any, hanging: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(loading, "STARTS", 2)
    loader = build_train_loader(
        build_dataset(ten.section()), samples_per_gpu=2, workers_per_gpu=1, seed=0, shuffle=False
    )
    hanging(2)
    with pytest.raises(DetectorError, match=r"did not start within 60 s, 2 times.*workers_per_gpu=0"):
        next(iter(loader))
    assert data_workers() == []
