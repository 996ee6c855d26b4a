"""The reference's three snippets: only package and file names differ, and there is no GPU here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import detector
from detector.errors import ConfigError, DatasetError
from detector.inference import inference_detector
from tests.parity.invariance import asynchronous, same
from tests.unit.inference.tiny_models import FASTER, MASK, RPN, image, write_model, write_video
from tests.unit.inference.tiny_models import detector as tiny

IMAGES = """
from detector import init_detector, inference_detector
import mmcv

# Specify the path to model config and checkpoint file
config_file = 'config.py'
checkpoint_file = 'model.pth'

# build the model from a config file and a checkpoint file
model = init_detector(config_file, checkpoint_file, device='cuda:0')

# test a single image and show the results
img = 'test.jpg'  # or img = mmcv.imread(img), which will only load it once
result = inference_detector(model, img)
# visualize the results in a new window
model.show_result(img, result)
# or save the visualization results to image files
model.show_result(img, result, out_file='result.jpg')
"""
VIDEO = """
from detector import init_detector, inference_detector
import mmcv

config_file = 'config.py'
checkpoint_file = 'model.pth'
model = init_detector(config_file, checkpoint_file, device='cuda:0')

# test a video and show the results
video = mmcv.VideoReader('video.mp4')
for frame in video:
    result = inference_detector(model, frame)
    model.show_result(frame, result, wait_time=1)
"""
ASYNC = """
import asyncio
import torch
from detector import init_detector, async_inference_detector, concurrent

async def main():
    config_file = 'config.py'
    checkpoint_file = 'model.pth'
    device = 'cuda:0'
    model = init_detector(config_file, checkpoint=checkpoint_file, device=device)

    # queue is used for concurrent inference of multiple images
    streamqueue = asyncio.Queue()
    # queue size defines concurrency level
    streamqueue_size = 3

    for _ in range(streamqueue_size):
        streamqueue.put_nowait(torch.cuda.Stream(device=device))

    # test a single image and show the results
    img = 'test.jpg'  # or img = mmcv.imread(img), which will only load it once

    async with concurrent(streamqueue):
        result = await async_inference_detector(model, img)

    # visualize the results in a new window
    model.show_result(img, result)
    # or save the visualization results to image files
    model.show_result(img, result, out_file='result.jpg')
    return result


result = asyncio.run(main())
"""


class Slot:
    """Stands for a CUDA stream on a machine without a GPU; the concurrency is the number of them."""

    def __init__(self, device: str) -> None:
        self.device = device


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with config.py, model.pth, test.jpg and video.mp4, where 'cuda:0' means the CPU."""
    write_model(tmp_path)
    cv2.imwrite(str(tmp_path / "test.jpg"), image(96, 64))
    write_video(tmp_path / "video.mp4", 3)
    monkeypatch.chdir(tmp_path)
    from detector.engine import distributed

    real = distributed.resolve_device
    monkeypatch.setattr(distributed, "resolve_device", lambda d: real("cpu" if d == "cuda:0" else d))
    monkeypatch.setattr(torch.cuda, "Stream", Slot)
    return tmp_path


def run(snippet: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(snippet, names)
    return names


def test_an_image_is_run_drawn_and_written(place: Path) -> None:
    names = run(IMAGES)
    boxes, masks = names["result"]
    assert [len(b) for b in boxes] == [len(m) for m in masks]
    assert len(boxes) == 3
    assert sum(map(len, boxes)) == 10
    assert all(b.dtype == np.float32 and b.shape[1:] == (5,) for b in boxes)
    assert all(
        set(rle) == {"size", "counts"} and rle["size"] == [64, 96] for of_class in masks for rle in of_class
    )
    assert cv2.imread(str(place / "result.jpg")) is not None


def test_frames_of_a_video_are_run_and_drawn(place: Path) -> None:
    boxes, _ = run(VIDEO)["result"]
    assert sum(map(len, boxes)) == 10


def test_an_image_is_run_asynchronously(place: Path) -> None:
    names = run(ASYNC)
    model = detector.init_detector("config.py", "model.pth", device="cpu")
    assert same(inference_detector(model, "test.jpg"), names["result"])
    assert (place / "result.jpg").is_file()


@pytest.mark.parametrize("model", [FASTER, MASK, RPN], ids=["boxes", "masks", "proposals"])
def test_asynchronous_results_are_the_same(tmp_path: Path, model: dict[str, Any]) -> None:
    built = tiny(tmp_path, model)
    pictures = [image(96, 64, seed) for seed in range(6)]
    assert same([inference_detector(built, p) for p in pictures], asynchronous(built, pictures))


def test_no_more_images_run_at_once_than_there_are_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    import time

    from detector.inference import concurrency

    now, most, lock = [0], [0], threading.Lock()

    def work(model: Any, imgs: Any) -> Any:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.03)
        with lock:
            now[0] -= 1
        return imgs

    monkeypatch.setattr(concurrency, "inference_detector", work)
    assert asynchronous(None, list(range(6)), slots=2) == list(range(6))
    assert most[0] == 2


def test_a_cancelled_image_keeps_its_slot_until_its_thread_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from detector.inference import async_inference_detector, concurrency, concurrent

    done = []
    monkeypatch.setattr(concurrency, "inference_detector", lambda m, i: (time.sleep(0.2), done.append(i)))

    async def one(queue: asyncio.Queue[int]) -> None:
        async with concurrent(queue):
            await async_inference_detector(None, "x")  # type: ignore[arg-type]

    async def run() -> int:
        queue: asyncio.Queue[int] = asyncio.Queue()
        queue.put_nowait(0)
        task = asyncio.create_task(one(queue))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == ["x"]
        return queue.qsize()

    assert asyncio.run(run()) == 1


def test_an_error_comes_back_and_gives_the_slot_back(tmp_path: Path) -> None:
    built = tiny(tmp_path)
    with pytest.raises(DatasetError, match=r"nowhere\.jpg"):
        asynchronous(built, ["nowhere.jpg"], slots=1)

    async def other() -> None:
        async with detector.concurrent(3):  # type: ignore[arg-type]
            pass

    with pytest.raises(ConfigError, match=r"asyncio\.Queue"):
        asyncio.run(other())


def test_public_names_are_imported_on_first_use() -> None:
    for name in ("init_detector", "inference_detector", "async_inference_detector", "concurrent"):
        assert callable(getattr(detector, name))
        assert name in dir(detector)
    with pytest.raises(AttributeError, match="inference_detector"):
        detector.inference_detectors  # noqa: B018
