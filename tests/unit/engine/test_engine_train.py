"""What a run settles before its first step, and the placement of the tested model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from detector.config import Config, load_config
from detector.engine import distributed, evaluate, seeding
from detector.engine import train as run
from detector.engine.resume import resume_source
from detector.errors import ConfigError

SAMPLE = Path(__file__).parents[3] / "configs" / "mask_rcnn" / "mask_rcnn_r18_fpn_sample.py"


class Head(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes


class Model(nn.Module):
    def __init__(self, *, bbox: int, mask: int) -> None:
        super().__init__()
        self.rpn_head = Head(1)
        self.roi_head = nn.ModuleDict({"bbox_head": Head(bbox), "mask_head": Head(mask)})

    @property
    def num_classes(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("bbox", "mask", "named"), [(3, 2, "roi_head.bbox_head has num_classes=3"), (2, 80, "mask_head has")]
)
def test_every_head_needs_the_number_of_classes(bbox: int, mask: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        run.check_num_classes(Model(bbox=bbox, mask=mask), ("a", "b"), where="c.py")


def test_the_rpn_has_its_own_number_of_classes() -> None:
    run.check_num_classes(Model(bbox=2, mask=2), ("a", "b"), where="c.py")


def config(tmp_path: Path, **data: Any) -> Config:
    return Config(name="c", path=tmp_path / "c.py", data=data, origins={})


@pytest.mark.parametrize(("settings", "innermost"), [({}, True), ({"channels_last": False}, False)])
def test_a_tested_model_is_placed_as_a_trained_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], innermost: bool
) -> None:
    seen: list[nn.Module] = []

    def infer(model: nn.Module, *args: Any, **options: Any) -> tuple[dict[str, Any], int]:
        seen.append(model)
        return {}, 0

    monkeypatch.setattr(evaluate, "load_model", lambda *args, **options: nn.Conv2d(3, 4, 3))
    monkeypatch.setattr(evaluate, "infer_dataset", infer)
    dataset: Any = SimpleNamespace(class_names=("a",))
    evaluate.test(config(tmp_path, data={}, **settings), "a.pth", dataset=dataset, device="cpu")
    weight = seen[0].weight
    assert isinstance(weight, torch.Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last) is innermost


def test_the_placement_can_be_chosen_by_an_option() -> None:
    assert load_config(SAMPLE, {"channels_last": False}).data["channels_last"] is False


@pytest.mark.parametrize("by_argument", [False, True])
def test_deterministic_runs_do_not_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_argument: bool
) -> None:
    asked: list[bool] = []

    def stop(*args: Any, **options: Any) -> None:
        raise KeyError("far enough")

    monkeypatch.setattr(seeding, "set_deterministic", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(run, "_prepare", stop)
    settings = config(tmp_path, cudnn_benchmark=True, deterministic=not by_argument)
    with pytest.raises(KeyError):
        run.train(settings, work_dir=tmp_path, device="cpu", deterministic=by_argument)
    assert asked == [True]
    assert torch.backends.cudnn.benchmark is False


def test_diff_seed_leaves_the_runs_seed_the_same_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    options = run.RunOptions(work_dir=tmp_path, seed=3, diff_seed=True)
    assert run._seed(options, None, note=lambda line: None) == 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"auto_scale_lr": {"base_batch_size": "16"}, "optimizer": {"lr": 0.1}}, "base_batch_size"),
        ({"seed": "three"}, "seed: found 'three'"),
    ],
)
def test_texts_in_place_of_numbers_are_named(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    data = {"runner": {"type": "EpochBasedRunner", "max_epochs": 1}, "data": {"train_dataloader": {}}}
    with pytest.raises(ConfigError, match=named):
        run.train(config(tmp_path, **{**data, **settings}), work_dir=tmp_path, device="cpu")


def test_a_readable_file_without_a_digest_is_resumed_with_a_note(tmp_path: Path) -> None:
    torch.save({"meta": {"iter": 4}, "state_dict": {"w": torch.ones(1)}}, tmp_path / "epoch_1.pth")
    notes: list[str] = []
    found = resume_source(config(tmp_path), tmp_path, None, auto_resume=True, note=notes.append)
    assert found == tmp_path / "epoch_1.pth"
    assert "no digest" in notes[0]
    assert not any("damaged" in line for line in notes)
