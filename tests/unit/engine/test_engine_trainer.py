"""The training loop on a model of three numbers: logs, checkpoints, best, stops, exact resume."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.checkpoint.files import load_checkpoint, manifest_path, save_checkpoint, verify_checkpoint
from detector.engine import seeding
from detector.engine.averaging import WeightAverage
from detector.engine.checkpoints import RunCheckpoints, find_resume_point
from detector.engine.hooks import AveragingPlan
from detector.engine.interrupts import Interrupted
from detector.engine.log import TrainLog
from detector.engine.optim import build_optimizer
from detector.engine.precision import LossScaler
from detector.engine.resume import payload, restore
from detector.engine.schedules import build_schedule
from detector.engine.settings import EvaluationPlan, RunPlan
from detector.engine.step import LossModule, NonFiniteLoss, total_loss
from detector.engine.trainer import Trainer
from detector.errors import CheckpointError, ConfigError
from detector.structures.samples import Batch, ImageMeta

EPOCH = 5


class Toy(nn.Module):
    """Linear, batch norm and dropout: weights, buffers and random numbers all matter to its training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(3, 1)
        self.poison: Callable[[Batch], float] = lambda batch: 0.0

    def loss(self, batch: Batch) -> dict[str, Tensor | list[Tensor]]:
        out = self.fc(self.drop(self.norm(batch.images).mean(dim=(2, 3))))
        bad = self.poison(batch)
        return {
            "loss_a": out.square().mean() + bad,
            "loss_b": [out.mean() ** 2, out.abs().mean()],
            "acc": out.detach().sum(),
        }


class Loader:
    """Batches that depend on epoch and iteration only; ``on_batch`` is called with the global iteration."""

    def __init__(self, length: int = EPOCH, on_batch: Callable[[int], None] = lambda i: None) -> None:
        self.length = length
        self.on_batch = on_batch
        self.at = (0, 0)
        self.closed = False

    def __len__(self) -> int:
        return self.length

    def set_position(self, epoch: int, iteration: int) -> None:
        self.at = (epoch, iteration)

    def close(self) -> None:
        self.closed = True

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.at
        for i in range(start, self.length):
            self.on_batch(epoch * self.length + i)
            generator = torch.Generator().manual_seed(1000 * epoch + i)
            images = torch.rand(2, 3, 4, 4, generator=generator)
            metas = [
                ImageMeta(ori_hw=(4, 4), input_hw=(4, 4), pad_hw=(4, 4), ori_filename=f"{epoch}-{i}-{k}.jpg")
                for k in (0, 1)
            ]
            yield Batch(images=images, metas=metas, targets=[])


def make(
    work_dir: Path,
    *,
    loader: Loader | None = None,
    model: Toy | None = None,
    scores: Sequence[float] = (),
    averaging: bool = False,
    scaled: bool = False,
    **plan: Any,
) -> Trainer:
    """A run of three epochs, unless ``plan`` says otherwise."""
    settings = {"by_epoch": True, "total": 3, "log_interval": 2, "grad_clip": {"max_norm": 1.0}, **plan}
    seeding.seed_all(0)
    toy = (model or Toy()).train()
    remaining = list(scores)
    evaluations = iter(remaining)
    averaged = AveragingPlan(momentum=0.2, start="exp", length=10)
    return Trainer(
        model=toy,
        loss_module=LossModule(toy),
        optimizer=build_optimizer(toy, {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        schedule=build_schedule({"policy": "step", "step": [2], "warmup": "linear", "warmup_iters": 4}),
        loader=loader or Loader(),
        plan=RunPlan(**settings),
        log=TrainLog(work_dir, "run"),
        checkpoints=RunCheckpoints(work_dir, max_keep=settings.get("max_keep_checkpoints", -1)),
        meta={"CLASSES": ("a",)},
        seed=7,
        device=torch.device("cpu"),
        evaluate=(lambda stop: ({"bbox_mAP": next(evaluations)}, 4)) if scores else None,
        averaging=WeightAverage(toy, averaged) if averaging else None,
        scaler=LossScaler(torch.device("cpu"), {"init_scale": 8.0, "growth_interval": 3}) if scaled else None,
    )


def weights(trainer: Trainer) -> str:
    """Digest of the whole state."""
    digest = hashlib.sha256()
    for key, value in trainer.model.state_dict().items():
        digest.update(key.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def resume(work_dir: Path, **arguments: Any) -> Trainer:
    """A fresh run that continues from the newest intact checkpoint."""
    path, _ = find_resume_point(work_dir)
    assert path is not None
    trainer = make(work_dir, **arguments)
    checkpoint = load_checkpoint(path)
    own = {key: value for key, value in checkpoint.state_dict.items() if not key.startswith("ema_")}
    trainer.model.load_state_dict(own)
    restore(trainer, checkpoint.raw, path)
    return trainer


def lines(work_dir: Path, mode: str = "train") -> list[dict[str, Any]]:
    """Spool lines of one mode."""
    records = [json.loads(line) for line in (work_dir / "run.log.json").read_text().splitlines()]
    return [record for record in records if record.get("mode") == mode]


def stop_at(iteration: int, signum: int = signal.SIGTERM) -> Callable[[int], None]:
    return lambda i: os.kill(os.getpid(), signum) if i == iteration else None


@pytest.fixture
def straight(tmp_path: Path) -> str:
    """Weights of the run that is never stopped."""
    (tmp_path / "straight").mkdir()
    trainer = make(tmp_path / "straight")
    trainer.run()
    return weights(trainer)


@pytest.mark.parametrize("iteration", [0, 1, 4, 5, 7, 9, 12, 14])
def test_stopped_anywhere_and_resumed_gives_the_same_weights(
    tmp_path: Path, straight: str, iteration: int
) -> None:
    with pytest.raises(Interrupted) as stopped:
        make(tmp_path, loader=Loader(on_batch=stop_at(iteration))).run()
    assert stopped.value.exit_code == 143
    assert stopped.value.checkpoint is not None
    assert verify_checkpoint(stopped.value.checkpoint)
    trainer = resume(tmp_path)
    assert trainer.iteration == iteration + 1
    trainer.run()
    assert weights(trainer) == straight


@pytest.mark.parametrize("iteration", [3, 4, 9, 13])
@pytest.mark.parametrize(
    "settings",
    [
        {"averaging": True},
        {"accumulate": 4},
        {"scaled": True},
        {"by_epoch": False, "total": 14, "accumulate": 3},
    ],
    ids=["averaged", "accumulated", "scaled", "by iteration"],
)
def test_what_lies_between_two_steps_is_resumed_too(
    tmp_path: Path, settings: dict[str, Any], iteration: int
) -> None:
    (tmp_path / "straight").mkdir()
    straight = make(tmp_path / "straight", **settings)
    straight.run()
    with pytest.raises(Interrupted):
        make(tmp_path, loader=Loader(on_batch=stop_at(iteration)), **settings).run()
    resumed = resume(tmp_path, **settings)
    resumed.run()
    assert weights(resumed) == weights(straight)
    for run in (resumed, straight):
        run.checkpoints.messages.clear()
    state, expected = payload(resumed), payload(straight)
    assert {k: v.tolist() for k, v in state["state_dict"].items()} == {
        k: v.tolist() for k, v in expected["state_dict"].items()
    }
    assert state["resume"]["scaler"] == expected["resume"]["scaler"]


def test_evaluations_see_the_averaged_weights_and_training_goes_on_from_its_own(tmp_path: Path) -> None:
    trainer = make(tmp_path, averaging=True, evaluation=EvaluationPlan(), scores=[0.0])
    seen: list[Tensor] = []

    def evaluate(should_stop: Callable[[], bool]) -> tuple[dict[str, float | str], int]:
        seen.append(trainer.model.fc.weight.detach().clone())  # type: ignore[union-attr, operator]
        return {"bbox_mAP": 0.1}, 4

    trainer.evaluate = evaluate
    trainer.run()
    stored = load_checkpoint(tmp_path / "epoch_3.pth").state_dict
    assert torch.equal(stored["fc.weight"], seen[-1])
    assert torch.equal(stored["ema_fc_weight"], trainer.model.state_dict()["fc.weight"])
    assert not torch.equal(stored["fc.weight"], stored["ema_fc_weight"])


def test_every_epoch_has_a_weight_hash_that_resuming_does_not_change(tmp_path: Path, straight: str) -> None:
    def hashes(folder: Path) -> list[str]:
        return re.findall(r"epoch \d: weights sha256 [0-9a-f]{16}", (folder / "run.log").read_text())

    with pytest.raises(Interrupted):
        make(tmp_path, loader=Loader(on_batch=stop_at(6))).run()
    resume(tmp_path).run()
    assert hashes(tmp_path) == hashes(tmp_path / "straight")
    assert len(set(hashes(tmp_path))) == 3


def test_numbers_that_a_part_keeps_beside_its_weights_are_resumed(tmp_path: Path) -> None:
    class Counting(Toy):
        seen = 0.0

        def loss(self, batch: Batch) -> dict[str, Tensor | list[Tensor]]:
            self.seen += float(batch.images.mean())
            return super().loss(batch)

        def training_state(self) -> dict[str, float]:
            return {"seen": self.seen}

        def load_training_state(self, state: dict[str, float]) -> None:
            self.seen = state["seen"]

    whole = Counting()
    (tmp_path / "whole").mkdir()
    make(tmp_path / "whole", model=whole).run()
    with pytest.raises(Interrupted):
        make(tmp_path, model=Counting(), loader=Loader(on_batch=stop_at(6))).run()
    part = Counting()
    resume(tmp_path, model=part).run()
    assert part.seen == whole.seen


def test_a_config_rate_that_a_resumed_run_does_not_use_is_said(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path, loader=Loader(on_batch=stop_at(6))).run()
    path, _ = find_resume_point(tmp_path)
    assert path is not None
    trainer = make(tmp_path)
    trainer.optimizer.param_groups[0]["initial_lr"] = 0.7
    restore(trainer, load_checkpoint(path).raw, path)
    assert "rate 0.7 has no effect" in (tmp_path / "run.log").read_text()


def test_killed_between_checkpoints_repeats_from_the_last_one(tmp_path: Path, straight: str) -> None:
    def die(iteration: int) -> None:
        if iteration == 8:
            raise KeyError("killed")

    with pytest.raises(KeyError):
        make(tmp_path, loader=Loader(on_batch=die)).run()
    trainer = resume(tmp_path)
    assert trainer.iteration == EPOCH
    trainer.run()
    assert weights(trainer) == straight


def test_a_resumed_log_continues_the_window(tmp_path: Path, straight: str) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path, loader=Loader(on_batch=stop_at(6))).run()
    resume(tmp_path).run()
    timing = ("time", "data_time")
    plain = [{k: v for k, v in line.items() if k not in timing} for line in lines(tmp_path)]
    expected = [{k: v for k, v in line.items() if k not in timing} for line in lines(tmp_path / "straight")]
    assert plain == expected


def test_sigint_is_130(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as stopped:
        make(tmp_path, loader=Loader(on_batch=stop_at(3, signal.SIGINT))).run()
    assert stopped.value.exit_code == 130


def test_a_loader_that_dies_of_the_same_signal_is_a_stop(tmp_path: Path) -> None:
    def both(iteration: int) -> None:
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker exited unexpectedly")

    with pytest.raises(Interrupted) as stopped:
        make(tmp_path, loader=Loader(on_batch=both)).run()
    assert load_checkpoint(stopped.value.checkpoint or "").meta["iter"] == 3


def test_files_and_metadata_of_a_run(tmp_path: Path) -> None:
    make(tmp_path, checkpoint_interval=2).run()
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["epoch_2.pth", "epoch_3.pth", "latest.pth"]
    assert (tmp_path / "latest.pth").resolve().name == "epoch_3.pth"
    file = load_checkpoint(tmp_path / "latest.pth")
    assert (file.meta["epoch"], file.meta["iter"], file.meta["CLASSES"]) == (3, 15, ("a",))
    assert file.meta["hook_msgs"]["last_ckpt"].endswith("epoch_3.pth")


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    make(tmp_path, max_keep_checkpoints=2, total=4).run()
    kept = {p.name for p in tmp_path.glob("epoch_*")}
    assert kept == {"epoch_3.pth", "epoch_3.pth.sha256", "epoch_4.pth", "epoch_4.pth.sha256"}


def test_a_stopped_runs_file_goes_when_a_newer_one_stands(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path, loader=Loader(on_batch=stop_at(6))).run()
    assert (tmp_path / "stopped_iter_7.pth").is_file()
    resume(tmp_path).run()
    assert not list(tmp_path.glob("stopped_*"))


def test_the_best_checkpoint_follows_the_metric(tmp_path: Path) -> None:
    trainer = make(tmp_path, scores=[0.2, 0.5, 0.4], evaluation=EvaluationPlan(save_best="auto"))
    trainer.run()
    assert trainer.checkpoints.best == tmp_path / "best_bbox_mAP_epoch_2.pth"
    assert [p.name for p in tmp_path.glob("best_*.pth")] == ["best_bbox_mAP_epoch_2.pth"]
    assert trainer.metrics == {"bbox_mAP": 0.4}
    assert [(line["epoch"], line["iter"], line["bbox_mAP"]) for line in lines(tmp_path, "val")] == [
        (1, 4, 0.2),
        (2, 4, 0.5),
        (3, 4, 0.4),
    ]


def test_evaluations_come_closer_together_near_the_end(tmp_path: Path) -> None:
    plan = EvaluationPlan(interval=4, dynamic_intervals=((4, 1),))
    make(tmp_path, total=5, scores=[0.1, 0.2], evaluation=plan).run()
    assert [line["epoch"] for line in lines(tmp_path, "val")] == [4, 5]


def test_an_evaluation_that_was_cut_off_is_repeated(tmp_path: Path) -> None:
    def die(should_stop: Callable[[], bool]) -> tuple[dict[str, float | str], int]:
        raise KeyError("killed")

    first = make(tmp_path, evaluation=EvaluationPlan(), scores=[0.0])
    first.evaluate = die
    with pytest.raises(KeyError):
        first.run()
    second = resume(tmp_path, evaluation=EvaluationPlan(), scores=[0.1, 0.2, 0.3])
    second.run()
    assert [line["bbox_mAP"] for line in lines(tmp_path, "val")] == [0.1, 0.2, 0.3]


def test_log_lines_as_the_reference_drops_partial_windows(tmp_path: Path) -> None:
    make(tmp_path).run()
    found = lines(tmp_path)
    assert [(line["epoch"], line["iter"]) for line in found] == [(e, i) for e in (1, 2, 3) for i in (2, 4)]
    assert list(found[0]) == [
        "mode",
        "epoch",
        "iter",
        "lr",
        "data_time",
        "loss_a",
        "loss_b",
        "acc",
        "loss",
        "grad_norm",
        "time",
    ]
    assert found[0]["lr"] == round(0.1 * (1 - 0.75 * 0.9), 5)
    assert found[-1]["lr"] == pytest.approx(0.01)


def test_an_epoch_shorter_than_the_interval_still_has_a_line(tmp_path: Path) -> None:
    make(tmp_path, log_interval=50).run()
    assert [(line["epoch"], line["iter"]) for line in lines(tmp_path)] == [(1, 5), (2, 5), (3, 5)]


def test_iteration_based_run(tmp_path: Path) -> None:
    make(
        tmp_path,
        by_epoch=False,
        total=12,
        checkpoint_interval=5,
        scores=[0.1, 0.2],
        evaluation=EvaluationPlan(interval=6),
    ).run()
    assert sorted(p.name for p in tmp_path.glob("iter_*.pth")) == ["iter_10.pth", "iter_12.pth", "iter_5.pth"]
    assert [line["iter"] for line in lines(tmp_path)] == [2, 4, 6, 8, 10, 12]
    assert [(line["iter"], line["epoch"]) for line in lines(tmp_path, "val")] == [(6, 2), (12, 3)]
    assert [line["epoch"] for line in lines(tmp_path) if line["iter"] in (6, 12)] == [2, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_explained(tmp_path: Path, value: float) -> None:
    toy = Toy()
    toy.poison = lambda batch: value if str(batch.metas[0].ori_filename).startswith("1-2") else 0.0
    trainer = make(tmp_path, model=toy)
    with pytest.raises(NonFiniteLoss) as stopped:
        trainer.run()
    expected = (
        rf"loss_a={value:g}; images: 1-2-0.jpg, 1-2-1.jpg; lr 0.1; gradient norm \d\S* in the step before"
    )
    assert re.search(expected, str(stopped.value))
    assert trainer.iteration == 7
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_a_file_of_the_reference_continues_after_its_epoch(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    content = {"meta": {"epoch": 2, "iter": 99}, "optimizer": trainer.optimizer.state_dict()}
    restore(trainer, content, tmp_path / "epoch_2.pth")
    assert trainer.iteration == 2 * EPOCH


def test_another_epoch_length_restarts_the_epoch(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path, loader=Loader(on_batch=stop_at(6))).run()
    assert resume(tmp_path, loader=Loader(length=8)).iteration == 8


def test_weights_alone_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="load_from"):
        restore(make(tmp_path), {"meta": {}}, tmp_path / "published.pth")


def test_damaged_files_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path).run()
    (tmp_path / "epoch_3.pth").write_bytes(b"half")
    path, damaged = find_resume_point(tmp_path)
    assert path == tmp_path / "epoch_2.pth"
    assert damaged == [tmp_path / "epoch_3.pth"]


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert find_resume_point(tmp_path) == (None, [])


def test_total_loss_sums_everything_called_loss() -> None:
    losses = {
        "loss_a": torch.tensor([1.0, 3.0]),
        "s0.loss_b": [torch.tensor(1.0), torch.tensor(4.0)],
        "acc": torch.tensor(50.0),
    }
    total, scalars = total_loss(losses)
    assert total.item() == 7.0
    assert {name: value.item() for name, value in scalars.items()} == {
        "loss_a": 2.0,
        "s0.loss_b": 5.0,
        "acc": 50.0,
    }


def test_step_seed_depends_on_every_part() -> None:
    def draw(*position: int) -> float:
        seeding.seed_step(*position)
        return torch.rand(()).item()

    values = [draw(0, 0, 0, 0), draw(1, 0, 0, 0), draw(0, 1, 0, 0), draw(0, 0, 1, 0), draw(0, 0, 0, 1)]
    assert len(set(values)) == 5
    assert draw(0, 0, 0, 0) == values[0]


def test_the_loader_ends_with_a_failed_run(tmp_path: Path) -> None:
    def die(iteration: int) -> None:
        raise KeyError("broken")

    loader = Loader(on_batch=die)
    with pytest.raises(KeyError):
        make(tmp_path, loader=loader).run()
    assert loader.closed


def test_diff_seed_changes_the_steps_and_not_the_seed_that_is_stored(tmp_path: Path, straight: str) -> None:
    trainer = make(tmp_path)
    trainer.rank_offset = 1
    trainer.run()
    assert weights(trainer) != straight
    assert payload(trainer)["meta"]["seed"] == 7


@pytest.mark.parametrize("key", ["seed", "iteration", "log_window"])
def test_an_incomplete_resume_part_is_refused(tmp_path: Path, key: str) -> None:
    content = payload(make(tmp_path))
    del content["resume"][key]
    with pytest.raises(CheckpointError, match=rf"a\.pth: its 'resume' part lacks {key}"):
        restore(make(tmp_path), content, tmp_path / "a.pth")


def test_a_resume_part_of_a_later_version_is_refused(tmp_path: Path) -> None:
    content = payload(make(tmp_path))
    content["resume"]["version"] = 2
    with pytest.raises(CheckpointError, match="version 2; expected 1"):
        restore(make(tmp_path), content, tmp_path / "a.pth")


def write(path: Path, iteration: int, *, mtime: int, manifest: bool = True) -> Path:
    """A checkpoint that says it is of an iteration."""
    save_checkpoint(path, {"meta": {"iter": iteration}, "state_dict": {"w": torch.ones(1)}})
    os.utime(path, (mtime, mtime))
    if not manifest:
        manifest_path(path).unlink()
    return path


@pytest.mark.parametrize(
    ("files", "newest"),
    [
        ([("epoch_9.pth", 90, 5), ("epoch_10.pth", 100, 1)], "epoch_10.pth"),
        ([("iter_7.pth", 7, 5), ("stopped_iter_12.pth", 12, 1)], "stopped_iter_12.pth"),
        ([("epoch_2.pth", 20, 1), ("stopped_iter_15.pth", 15, 5)], "epoch_2.pth"),
        ([("epoch_2.pth", 20, 5), ("stopped_iter_25.pth", 25, 1)], "stopped_iter_25.pth"),
        ([("iter_7.pth", 7, 1), ("stopped_iter_7.pth", 7, 5)], "stopped_iter_7.pth"),
    ],
)
def test_the_furthest_checkpoint_counts_not_the_latest_written(
    tmp_path: Path, files: list[tuple[str, int, int]], newest: str
) -> None:
    written = [write(tmp_path / name, iteration, mtime=mtime) for name, iteration, mtime in files]
    assert len(written) == 2
    assert find_resume_point(tmp_path) == (tmp_path / newest, [])


def test_files_without_a_digest_count_if_they_can_be_read(tmp_path: Path) -> None:
    good = write(tmp_path / "epoch_1.pth", 10, mtime=1, manifest=False)
    bad = write(tmp_path / "epoch_2.pth", 20, mtime=2, manifest=False)
    bad.write_bytes(bad.read_bytes()[:100])
    assert find_resume_point(tmp_path) == (good, [bad])


@pytest.mark.parametrize("seed", [-1, 2**32, "3", True, 1.5])
def test_seeds_out_of_range_are_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed: found"):
        seeding.choose_seed(seed)
