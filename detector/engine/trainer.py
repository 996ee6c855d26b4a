"""The training loop, and the state that lets a run continue exactly."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from detector.checkpoint.files import CheckpointNotWritten
from detector.engine import distributed, seeding
from detector.engine.averaging import WeightAverage
from detector.engine.checkpoints import RunCheckpoints
from detector.engine.interrupts import Interrupted, StopRequest
from detector.engine.log import TrainLog, Window
from detector.engine.norms import average_norm_statistics, share_norm_statistics
from detector.engine.precision import LossScaler
from detector.engine.resume import payload, weights_digest
from detector.engine.schedules import Position, Schedule, YoloxSchedule
from detector.engine.settings import RunPlan
from detector.engine.step import Portion, announce, training_step
from detector.progress import Progress
from detector.structures.samples import Batch

Metrics = dict[str, float | str]


class TrainLoader(Protocol):
    """What the loop needs of a loader."""

    def __len__(self) -> int:
        """Iterations of an epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the position on to the end of its epoch."""

    def set_position(self, epoch: int, iteration: int) -> None:
        """Go to a batch of an epoch, both counted from 0."""

    def close(self) -> None:
        """End the worker processes."""


class Evaluate(Protocol):
    """Evaluates the model as it is; asks ``should_stop`` between batches and then raises Interrupted."""

    def __call__(self, should_stop: Callable[[], bool]) -> tuple[Metrics, int]:
        """(metrics, number of batches)."""


@dataclass
class Trainer:
    """One training run.

    Attributes:
        model: the detector, on its device, in training mode.
        loss_module: LossModule of the model, or its DistributedDataParallel.
        optimizer: over the model's parameters.
        schedule: learning rates.
        loader: training batches.
        plan: what happens when.
        log: both log files.
        checkpoints: the run's files.
        meta: facts for the checkpoint's ``meta``.
        seed: of the run: order of the images, first weights and, with ``rank_offset``, every step.
        rank_offset: added to the seed of every step's random numbers.
        device: where batches go.
        evaluate: returns (metrics, batches) or None when the run does not validate.
        progress: the bar, or None.
        averaging: the averaged weights, or None without an EMA hook.
        scaler: of float16, or None.
        on_epoch: called with every epoch, from 0, before its first step.
        on_evaluated: called after every evaluation and at the end, on process 0.
        advise: turns the shares of a log window into a line of advice, or None.
    """

    model: nn.Module
    loss_module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule | YoloxSchedule
    loader: TrainLoader
    plan: RunPlan
    log: TrainLog
    checkpoints: RunCheckpoints
    meta: Mapping[str, Any]
    seed: int
    device: torch.device
    rank_offset: int = 0
    evaluate: Evaluate | None = None
    progress: Progress | None = None
    averaging: WeightAverage | None = None
    scaler: LossScaler | None = None
    on_epoch: Callable[[int], None] = lambda epoch: None
    on_evaluated: Callable[[], object] = lambda: None
    advise: Callable[[Mapping[str, float]], str | None] = lambda shares: None
    iteration: int = 0
    evaluated: bool = True
    metrics: Metrics = field(default_factory=dict)
    last: Path | None = None
    window: Window = field(default_factory=Window)
    shares: Window = field(default_factory=Window)
    logged_this_epoch: bool = False
    _train_seconds: float = 0.0
    _first_iteration: int = 0
    _saved_iteration: int = -1
    _last_norm: float | None = None

    @property
    def position(self) -> Position:
        """Where the run is."""
        length = len(self.loader)
        return Position(self.iteration, length, self.plan.max_iterations(length))

    def run(self) -> None:
        """Train from the present position to the end.

        Raises:
            Interrupted: SIGTERM or SIGINT came; a checkpoint of the last whole step is saved.
            NonFiniteLoss: a loss is not finite.
        """
        self._first_iteration = self.iteration
        if self.progress is not None:
            self.progress.start_at(self.iteration)
        try:
            with StopRequest() as stop:
                if not self.evaluated:
                    self._evaluate(stop)
                while self.iteration < self.position.max_iterations:
                    self._epoch(stop)
        finally:
            self.loader.close()
        self._tell()

    def _epoch(self, stop: StopRequest) -> None:
        """The rest of the present epoch."""
        epoch, within = divmod(self.iteration, len(self.loader))
        self.loader.set_position(epoch, within)
        self.on_epoch(epoch)
        if self.plan.by_epoch and within == 0:
            self.window.clear()
            self.logged_this_epoch = False
        batches = iter(self.loader)
        for _ in range(within, len(self.loader)):
            if self.iteration >= self.position.max_iterations:
                return
            stop_now = self._iteration(batches, epoch, stop)
            last_of_epoch = self.iteration % len(self.loader) == 0
            if last_of_epoch:
                self._end_epoch(epoch)
            if last_of_epoch or not self.plan.by_epoch:
                self._after(
                    self.iteration // len(self.loader) if self.plan.by_epoch else self.iteration, stop
                )
            if stop_now:
                self._save_and_stop(stop)
        next(batches, None)  # lets the loader finish its pass

    def _end_epoch(self, epoch: int) -> None:
        """The log's last line of an epoch, if it has none, and a line by which two runs can be compared."""
        if not self.logged_this_epoch:
            self._log_window(epoch)
        plan = self.plan.hooks.sync_norm
        if plan is not None and plan.due(epoch + 1, self.position.max_epochs):
            average_norm_statistics(self.model)
        if distributed.rank() == 0:
            self.log.text(f"epoch {epoch + 1}: weights sha256 {weights_digest(self.model)[:16]}")

    def _iteration(self, batches: Iterator[Batch], epoch: int, stop: StopRequest) -> bool:
        """One step and its record; whether some rank was asked to stop."""
        started = time.perf_counter()
        batch = self._next_batch(batches, stop)
        data_s = time.perf_counter() - started
        batch = batch.to(self.device)
        self._set_rates()
        seeding.seed_step(self.seed + self.rank_offset, epoch, self.iteration, distributed.rank())
        announce(self.model, epoch, self.iteration)
        within = self.iteration + 1 - epoch * len(self.loader)
        last_of_window = (within if self.plan.by_epoch else self.iteration + 1) % self.plan.log_interval == 0
        timed = last_of_window or self.device.type != "cuda"
        result = training_step(
            self.loss_module,
            batch,
            self.optimizer,
            grad_clip=self.plan.grad_clip,
            stop=stop.requested,
            last_norm=self._last_norm,
            scaler=self.scaler,
            portion=Portion.at(self.iteration, self.position.max_iterations, self.plan.accumulate),
            timed=timed,
        )
        if self.averaging is not None:
            self.averaging.update(self.iteration)
        self._last_norm = result.values.get("grad_norm", self._last_norm)
        step_s = time.perf_counter() - started
        self._train_seconds += step_s
        self.iteration += 1
        self.window.add({"data_time": data_s})
        self.window.add(result.values, weight=result.images)
        self.window.add({"time": step_s})
        self.window.steps += 1
        self.shares.add({"data": data_s, **(result.seconds if timed else {})})
        if last_of_window:
            self._log_window(epoch)
        if self.progress is not None:
            self.progress.describe(
                f"epoch {epoch + 1}/{self.position.max_epochs}, loss {result.values['loss']:.3f}"
            )
            self.progress.advance()
        return result.stop

    def _next_batch(self, batches: Iterator[Batch], stop: StopRequest) -> Batch:
        """The next batch; a loader that died of the same signal as we got is a stop, not a failure."""
        try:
            return next(batches)
        except RuntimeError:
            if stop.requested and distributed.world_size() == 1:
                self._save_and_stop(stop)
            raise

    def _set_rates(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.lr(group["initial_lr"], self.position)

    def _log_window(self, epoch: int) -> None:
        """Write the means since the last line."""
        total = len(self.loader) if self.plan.by_epoch else self.position.max_iterations
        number = self.iteration - epoch * len(self.loader) if self.plan.by_epoch else self.iteration
        head: dict[str, float | int | str] = {
            "mode": "train",
            "epoch": epoch + 1,
            "iter": number,
            "lr": self._rate(),
        }
        if self.device.type == "cuda":
            head["memory"] = int(torch.cuda.max_memory_allocated(self.device) / 2**20)
        done = self.iteration - self._first_iteration
        eta_s = self._train_seconds / done * (self.position.max_iterations - self.iteration)
        self.log.train(head, self.window.means(), eta_s=eta_s, total=str(total), shares=self._shares())
        if (advice := self.advise(self.shares.means())) is not None:
            self.log.text(advice)
        self.window.clear()
        self.shares.clear()
        self.logged_this_epoch = True

    def _shares(self) -> str:
        """Where the time of the window went."""
        means = self.shares.means()
        whole = sum(means.values()) or 1.0
        return "shares: " + " ".join(f"{name} {100 * value / whole:.0f}%" for name, value in means.items())

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _after(self, done: int, stop: StopRequest) -> None:
        """What is due after ``done`` epochs or iterations: first a checkpoint, then the evaluation."""
        evaluation = self.plan.evaluation
        self.evaluated = not (self.evaluate is not None and evaluation is not None and evaluation.due(done))
        interval = self.plan.checkpoint_interval
        finished = self.iteration >= self.position.max_iterations
        if finished or (interval > 0 and done % interval == 0):
            self.save(f"{self._unit}_{done}.pth", must=finished)
        elif not self.evaluated and distributed.world_size() > 1:
            self.save(self._stopped_name)  # several processes cannot stop in the middle of an evaluation
        if not self.evaluated:
            self._evaluate(stop)

    @property
    def _unit(self) -> str:
        return "epoch" if self.plan.by_epoch else "iter"

    def _evaluate(self, stop: StopRequest) -> None:
        """Metrics of the model as it is; keep it if it is the best so far."""
        if self.evaluate is None or self.plan.evaluation is None:
            return
        self.model.eval()
        alone = distributed.world_size() == 1
        hidden = self.progress.paused() if self.progress is not None else contextlib.nullcontext()
        averaged = self.averaging.applied() if self.averaging is not None else contextlib.nullcontext()
        try:
            with hidden, averaged:
                share_norm_statistics(self.model)
                metrics, batches = self.evaluate(lambda: stop.requested and alone)
        except Interrupted:
            self._save_and_stop(stop)
        finally:
            self.model.train()
        self.evaluated = True
        self.metrics = metrics
        epoch = (
            max(self.iteration - 1, 0) // len(self.loader) + 1
        )  # the one of the step before, as train lines
        number = batches if self.plan.by_epoch else self.iteration
        self.log.val({"mode": "val", "epoch": epoch, "iter": number, "lr": self._rate()}, metrics)
        self._keep_best(self.plan.evaluation.save_best)
        self._tell()

    def _tell(self) -> None:
        """Let process 0 draw what there is to see."""
        if distributed.rank() == 0:
            self.on_evaluated()

    def _keep_best(self, metric: str | None) -> None:
        """Save the model as the best one if the chosen metric says so."""
        numbers = {name: value for name, value in self.metrics.items() if isinstance(value, int | float)}
        if metric is None or not numbers or distributed.rank() != 0 or self.plan.evaluation is None:
            return
        name = next(iter(numbers)) if metric == "auto" else metric
        if name not in numbers:
            self.log.text(
                f"evaluation.save_best: found no metric {name!r} among {', '.join(numbers)}; no best "
                "checkpoint is kept"
            )
            return
        if self.plan.evaluation.is_better(name, float(numbers[name]), self.checkpoints.best_score):
            done = self.iteration // len(self.loader) if self.plan.by_epoch else self.iteration
            path = self.checkpoints.save_best(
                name, float(numbers[name]), f"{self._unit}_{done}.pth", payload(self)
            )
            if path is not None:
                self.log.text(f"best {name} so far: {numbers[name]:.4f}, saved {path.name}")

    def save(self, name: str, *, must: bool = False) -> None:
        """Write a checkpoint on rank 0; the others wait, and fail with it.

        Args:
            name: the file's.
            must: whether the run cannot go on without it.

        Raises:
            CheckpointNotWritten: by ``must`` or the plan; the older checkpoints are intact.
        """
        written, failure = False, None
        if distributed.rank() == 0:
            try:
                written = self.checkpoints.save(name, payload(self), must=must) is not None
            except CheckpointNotWritten as error:
                failure = error
        state = distributed.broadcast_int(-1 if failure else int(written), self.device)
        if state < 0:
            raise failure or CheckpointNotWritten(f"{name}: process 0 could not write it and says why.")
        if state:
            self.last = self.checkpoints.work_dir / name
            self._saved_iteration = self.iteration

    @property
    def _stopped_name(self) -> str:
        """A checkpoint between the regular ones, which goes when the next of them stands."""
        return f"stopped_iter_{self.iteration}.pth"

    def _save_and_stop(self, stop: StopRequest) -> None:
        """Save the last whole step, unless a checkpoint holds it already, and leave."""
        if self._saved_iteration != self.iteration:
            self.save(self._stopped_name, must=True)
        self.log.text(f"stopped on request after iteration {self.iteration}; saved {self.last}")
        raise Interrupted(stop.signum or 15, self.last)
