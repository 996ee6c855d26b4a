"""`detector benchmark`: what it measures, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from detector.cli import main
from detector.errors import ConfigError, DatasetError
from detector.inference.benchmark import as_table, measure, use_threads
from detector.inference.stages import STAGES, Stopwatch
from tests.unit.inference.tiny_models import FASTER, MASK, detector, image, write_model

CPU = torch.device("cpu")


class Slow(nn.Module):
    def __init__(self, seconds: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.seconds, self.inner = seconds, inner

    def forward(self) -> None:
        time.sleep(self.seconds)
        if self.inner is not None:
            self.inner()


def test_time_goes_to_the_outermost_module_and_the_rest() -> None:
    clock, module = Stopwatch(CPU), Slow(0.02, Slow(0.03))
    with clock.watching():
        module()
        time.sleep(0.04)
    assert clock.seconds["forward"] == pytest.approx(0.05, abs=0.03)
    assert clock.seconds["post-process"] == pytest.approx(0.04, abs=0.03)
    assert clock.seconds["rle"] == 0
    module()  # nobody watches now
    assert clock.seconds["forward"] < 0.09


def test_the_encoder_is_its_own_again_afterwards() -> None:
    before, clock = coco_mask.encode, Stopwatch(CPU)
    with contextlib.suppress(ValueError), clock.watching():
        assert coco_mask.encode is not before
        raise ValueError("stop")
    assert coco_mask.encode is before


def test_a_mask_model_has_time_in_every_stage(tmp_path: Path) -> None:
    speed = measure(detector(tmp_path, MASK), repeat=2)
    assert all(speed.stages_ms[stage] > 0 for stage in STAGES)
    assert sum(speed.stages_ms.values()) == pytest.approx(speed.latency_ms["mean"], rel=0.1)
    assert speed.fps == pytest.approx(1e3 / speed.latency_ms["mean"], rel=1e-6)
    assert speed.latency_ms["p50"] <= speed.latency_ms["p90"] <= speed.latency_ms["p99"]
    assert (speed.images, speed.passes, speed.detections, speed.inputs) == (4, 2, 10.0, ["96 x 96"])
    assert speed.memory_mb["peak_rss"] > speed.memory_mb["model"] > 0
    assert [line.split()[0] for line in as_table(speed)[-5:]] == list(STAGES)


def test_batches_hold_images_of_one_size(tmp_path: Path) -> None:
    for i, (width, height) in enumerate([(96, 64), (64, 96), (90, 60), (96, 64)]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image(width, height))
    sizes: list[tuple[int, ...]] = []
    model = detector(tmp_path, FASTER)
    model.backbone.register_forward_pre_hook(lambda _m, inputs: sizes.append(tuple(inputs[0].shape)))
    speed = measure(model, images=tmp_path, batch_size=2, repeat=1)
    assert sorted(sizes) == sorted([(2, 3, 64, 96), (1, 3, 64, 96), (1, 3, 96, 64)] * 2)
    assert speed.inputs == ["64 x 96", "96 x 64"]
    assert speed.stages_ms["rle"] == 0


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"repeat": 0}], ids=str)
def test_numbers_are_positive(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="found 0; expected a positive number"):
        measure(detector(tmp_path), **wrong)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    model = detector(tmp_path)
    with pytest.raises(DatasetError, match="no image"):
        measure(model, images=tmp_path)


def test_threads_are_positive() -> None:
    with pytest.raises(ConfigError, match="--threads: found 0"):
        use_threads(0)
    before = torch.get_num_threads()
    use_threads(None)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    config, checkpoint = write_model(tmp_path)
    argv = ["benchmark", str(config), str(checkpoint), "--device", "cpu", "--repeat", "1"]
    assert main([*argv, *(["--json"] if as_json else [])]) == 0
    out = capsys.readouterr().out
    if as_json:
        found: dict[str, Any] = json.loads(out)
        assert set(found["stages_ms"]) == set(STAGES)
        assert found["fps"] > 0
    else:
        assert "images/s" in out
        assert "post-process" in out
