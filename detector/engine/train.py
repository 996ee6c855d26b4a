"""``train``: puts a run together from its config and runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detector.build import build_model
from detector.checkpoint.files import Checkpoint, load_checkpoint
from detector.checkpoint.load import load_state
from detector.config import Config
from detector.cores import cpu_count
from detector.data.datasets import build_dataset
from detector.data.loader import TrainLoader, build_train_loader
from detector.engine import distributed, seeding
from detector.engine.averaging import WeightAverage
from detector.engine.checkpoints import FORMAT_VERSION, RunCheckpoints
from detector.engine.curves import write_curves
from detector.engine.evaluate import check_classes, evaluate_results, infer_dataset, split_dataset
from detector.engine.gathering import open_exchange
from detector.engine.initial_weights import load_weights
from detector.engine.joined_split import TestData
from detector.engine.linear_scaling import scale_rate
from detector.engine.log import DataWaitAdvice, TrainLog, env_info, timestamp
from detector.engine.mode_switch import mode_switch
from detector.engine.optim import build_optimizer
from detector.engine.placement import place_model
from detector.engine.precision import fitting, use_precision
from detector.engine.preflight import before_evaluation, before_training
from detector.engine.resume import last_seed, restore, resume_source, resume_state
from detector.engine.sample_pictures import draw_evaluation
from detector.engine.schedules import build_schedule
from detector.engine.scoring import Results, check_evaluation
from detector.engine.settings import check_sections, read_plan, without_effect
from detector.engine.step import wrap_for_ranks
from detector.engine.teachers import attach_teacher
from detector.engine.trainer import Evaluate, Metrics, Trainer
from detector.errors import ConfigError
from detector.evaluation.files import write_bytes
from detector.lineage.models import training_facts, training_stamp
from detector.lineage.stamp import KEY
from detector.progress import Progress


@dataclass(frozen=True)
class TrainResult:
    """What a finished run left.

    Attributes:
        last: the last checkpoint.
        best: the best one by ``evaluation.save_best``, or None.
        metrics: of the last evaluation; empty without one.
        log_json: the run's spool.
    """

    last: Path
    best: Path | None
    metrics: dict[str, float | str]
    log_json: Path


@dataclass(frozen=True)
class RunOptions:
    """The arguments of ``train`` that are not in the config."""

    work_dir: Path
    seed: int | None = None
    diff_seed: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    resume_from: Path | None = None
    auto_resume: bool = False
    validate: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the stamp; process 0 writes it


def default_work_dir(config: Config) -> Path:
    """The config's ``work_dir``, else ``work_dirs/<config name>``."""
    return Path(config.data.get("work_dir") or Path("work_dirs") / config.name)


def train(
    config: Config,
    *,
    work_dir: Path,
    seed: int | None = None,
    diff_seed: bool = False,
    device: str | None = None,
    resume_from: str | Path | None = None,
    auto_resume: bool = False,
    validate: bool = True,
    deterministic: bool = False,
    auto_scale_lr: bool = False,
) -> TrainResult:
    """Train the config's model on its training data.

    Args:
        config: effective values, from ``load_config``.
        work_dir: folder of logs and checkpoints; made if missing.
        seed: of everything random; None takes the config's, the resumed run's or a random one.
        diff_seed: add the process's rank to the seed of each step; images and weights stay the same for all.
        device: 'cpu', 'cuda:0' ...; None for a GPU if there is one.
        resume_from: checkpoint to continue exactly.
        auto_resume: continue from the intact checkpoint in ``work_dir`` that is furthest on, if there is one.
        validate: evaluate as the config's ``evaluation`` says.
        deterministic: deterministic kernels where there are any.
        auto_scale_lr: scale the rate by the batch size against ``auto_scale_lr.base_batch_size``.

    Raises:
        DetectorError: config, data, weights or machine do not fit; each says what to do.
        Interrupted: SIGTERM or SIGINT; a checkpoint of the last whole step is saved.
    """
    work_dir = Path(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    deterministic = deterministic or bool(config.data.get("deterministic"))
    seeding.set_deterministic(deterministic)
    torch.backends.cudnn.benchmark = bool(config.data.get("cudnn_benchmark", False)) and not deterministic
    notes: list[str] = []
    wanted = auto_resume or bool(config.data.get("auto_resume"))
    options = RunOptions(
        work_dir=work_dir,
        seed=seed if seed is not None else config.data.get("seed"),
        diff_seed=diff_seed,
        device=distributed.resolve_device(device or config.data.get("device")),
        resume_from=resume_source(config, work_dir, resume_from, auto_resume=wanted, note=notes.append),
        auto_resume=wanted,
        validate=validate,
        facts=_facts(config, validate=validate, deterministic=deterministic, auto_scale_lr=auto_scale_lr),
    )
    check_sections(config.data)
    config = scale_rate(config, enabled=auto_scale_lr, note=notes.append)
    if ignored := without_effect(config.data):
        notes.append(f"settings without effect here: {', '.join(ignored)}")
    trainer = _prepare(config, options, note=notes.append)
    for line in notes:
        trainer.log.text(line)
    try:
        trainer.run()
    finally:
        if trainer.progress is not None:
            trainer.progress.close(finished=False)
    last = trainer.last or options.resume_from
    assert last is not None, "a run saves its last step, or resumed a finished one"
    return TrainResult(
        last=last, best=trainer.checkpoints.best, metrics=trainer.metrics, log_json=trainer.log.json_path
    )


def _prepare(config: Config, options: RunOptions, *, note: Callable[[str], None]) -> Trainer:
    """Everything a run needs, with its weights and position."""
    cfg = config.data
    plan = read_plan(cfg, validate=options.validate)
    resumed = load_checkpoint(options.resume_from) if options.resume_from is not None else None
    seed = _seed(options, resumed, note=note)
    loader = _train_loader(config, options, seed)
    before_training(config, loader.dataset, work_dir=options.work_dir, device=options.device, note=note)
    model = _model(config, options, resumed, seed=seed, class_names=loader.dataset.class_names, note=note)
    precision = fitting(plan.precision, options.device, asked=bool(cfg.get("precision")), note=note)
    scaler = use_precision(model, options.device, precision)
    max_iterations = plan.max_iterations(len(loader))
    progress = _progress(config, max_iterations)
    evaluated: list[tuple[TestData, Results]] = []  # what is still to be drawn
    log = _log(options, show=progress.note)
    wrapped = wrap_for_ranks(
        model, options.device, find_unused_parameters=bool(cfg.get("find_unused_parameters", False))
    )
    trainer = Trainer(
        model=model,
        loss_module=wrapped,
        optimizer=build_optimizer(model, _required(config, "optimizer")),
        scaler=scaler,
        averaging=WeightAverage(model, plan.hooks.averaging) if plan.hooks.averaging is not None else None,
        schedule=build_schedule(cfg.get("lr_config"), by_epoch=plan.by_epoch),
        loader=loader,
        plan=plan,
        log=log,
        checkpoints=RunCheckpoints(
            options.work_dir,
            max_keep=plan.max_keep_checkpoints,
            on_error=plan.on_checkpoint_error,
            say=log.text,
        ),
        meta={
            **_meta(config, loader.dataset.class_names),
            KEY: _stamp(config, options, seed=seed, resumed=resumed),
        },
        seed=seed,
        rank_offset=distributed.rank() if options.diff_seed else 0,
        device=options.device,
        evaluate=_evaluation(config, model, options, loader.dataset.class_names, note=note, done=evaluated)
        if plan.evaluation is not None
        else None,
        progress=progress,
        on_epoch=mode_switch(plan, loader.dataset, model, max_iterations, len(loader), log),
        on_evaluated=lambda: _draw(trainer, options.work_dir, evaluated),
        advise=_advice(config),
    )
    if distributed.rank() == 0:
        trainer.checkpoints.sweep()
    _write_start(config, options, trainer, note=note)
    note(
        f"work_dir {options.work_dir}, seed {seed}, device {options.device}, {len(loader.dataset)} images, "
        f"{len(loader)} iterations an epoch, {max_iterations} in all"
    )
    if resumed is not None and options.resume_from is not None:
        restore(trainer, resumed.raw, options.resume_from)
        note(f"resumed {options.resume_from} after iteration {trainer.iteration} of {max_iterations}")
    return trainer


def _train_loader(config: Config, options: RunOptions, seed: int) -> TrainLoader:
    """Training batches of this process."""
    settings = _required(config, "data")
    dataset = build_dataset(
        settings.get("train") or _missing(config, "data.train"), test_mode=False, where="data.train"
    )
    return build_train_loader(
        dataset,
        samples_per_gpu=int(settings["train_dataloader"]["samples_per_gpu"]),
        workers_per_gpu=int(settings["train_dataloader"]["workers_per_gpu"]),
        seed=seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        pin_memory=options.device.type == "cuda",
    )


def _model(
    config: Config,
    options: RunOptions,
    resumed: Checkpoint | None,
    *,
    seed: int,
    class_names: tuple[str, ...],
    note: Callable[[str], None],
) -> nn.Module:
    """The model with its first or the resumed weights, on its device, in training mode."""
    cfg = config.data
    seeding.seed_all(seed)
    model: Any = build_model(
        _required(config, "model"),
        training=True,
        train_cfg=cfg.get("train_cfg"),
        test_cfg=cfg.get("test_cfg"),
    )
    check_num_classes(model, class_names, where=str(config.path))
    if resumed is None:
        model.init_weights()
        for line in load_weights(model, cfg["model"], load_from=cfg.get("load_from")):
            note(line)
    else:
        check_classes(resumed.meta.get("CLASSES"), class_names, where=str(options.resume_from))
        load_state(model, resumed, strict=True)
    attach_teacher(model, config, note=note)
    return place_model(model, options.device, cfg).train()


def _progress(config: Config, max_iterations: int) -> Progress:
    """The run's bar; without a terminal the log lines say how far it is."""
    main = distributed.rank() == 0
    return Progress(max_iterations, f"train {config.name}", every_s=float("inf"), enabled=main)


def _advice(config: Config) -> Callable[[Mapping[str, float]], str | None]:
    """What names the setting to change when the steps wait for data."""
    workers = int(config.data["data"]["train_dataloader"]["workers_per_gpu"])
    return DataWaitAdvice(workers, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))).line


def _log(options: RunOptions, *, show: Callable[[str], None]) -> TrainLog:
    """The log files, named by the time that process 0 reads."""
    stamp = distributed.broadcast_text(timestamp())
    return TrainLog(options.work_dir, stamp, enabled=distributed.rank() == 0, show=show)


def _write_start(
    config: Config, options: RunOptions, trainer: Trainer, *, note: Callable[[str], None]
) -> None:
    """The effective config, and the log's first line."""
    if distributed.rank() != 0:
        return
    copy = options.work_dir / f"{config.name}.py"
    if copy.resolve() == Path(config.path).resolve():
        note(f"{copy} is the run's config itself and stays as it is; the effective one is in the checkpoints")
    else:
        write_bytes(copy, config.text().encode())
    facts = {key: trainer.meta[key] for key in ("env_info", "config", "exp_name")}
    trainer.log.meta({**facts, "seed": trainer.seed, "iters_per_epoch": len(trainer.loader)})


def _evaluation(
    config: Config,
    model: nn.Module,
    options: RunOptions,
    class_names: tuple[str, ...],
    *,
    note: Callable[[str], None],
    done: list[tuple[TestData, Results]],
) -> Evaluate:
    """Evaluation on the config's val split; all is built and checked now, so that errors come early.

    The results of the last one are left in ``done``.
    """
    dataset = split_dataset(config, "val")
    if tuple(dataset.class_names) != tuple(class_names):
        raise ConfigError(
            f"{config.path}: data.val has the classes {', '.join(dataset.class_names)}; expected those of "
            f"data.train in the same order: {', '.join(class_names)}. Set the same classes=(…) in both."
        )
    check_evaluation(config, dataset, with_mask=bool(getattr(model, "with_mask", False)))
    before_evaluation(config, dataset, note=note)
    settings = config.data["data"]["val_dataloader"]

    def evaluate(should_stop: Callable[[], bool]) -> tuple[Metrics, int]:
        exchange = open_exchange(options.work_dir / ".parts")
        results, batches = infer_dataset(
            model,
            dataset,
            options.device,
            loader_settings=settings,
            what="evaluate val",
            should_stop=should_stop,
            exchange=exchange,
        )
        done[:] = [(dataset, results)]
        if exchange is None:
            return evaluate_results(config, dataset, results), batches
        return exchange.on_first(lambda: evaluate_results(config, dataset, results)) or {}, batches

    return evaluate


def _draw(trainer: Trainer, work_dir: Path, evaluated: list[tuple[TestData, Results]]) -> None:
    """What there is to see after an evaluation: the curves so far, and some of its images."""
    write_curves(work_dir, note=trainer.log.text)
    plan, epochs = trainer.plan, trainer.iteration // len(trainer.loader)
    if evaluated and plan.evaluation is not None and plan.evaluation.samples:
        name = f"epoch_{epochs}" if plan.by_epoch else f"iter_{trainer.iteration}"
        draw_evaluation(*evaluated[0], work_dir, name, plan.evaluation.samples, trainer.log.text)
    evaluated.clear()


def check_num_classes(model: nn.Module, class_names: tuple[str, ...], *, where: str) -> None:
    """Refuse a head whose number of classes is not the data set's; the RPN's own number is left alone.

    Raises:
        ConfigError: with the head, both numbers and what to set.
    """
    for name, module in model.named_modules():
        count = vars(module).get("num_classes")
        if count is None or name.split(".")[-1] == "rpn_head" or int(count) == len(class_names):
            continue
        raise ConfigError(
            f"{where}: the model's {name} has num_classes={count}, the training data has "
            f"{len(class_names)} classes ({', '.join(class_names[:8])}"
            f"{' …' if len(class_names) > 8 else ''}); expected the same number. Set "
            f"num_classes={len(class_names)} in every head "
            "(bbox_head, mask_head), or classes=(…) of the data sets."
        )


def _seed(options: RunOptions, resumed: Checkpoint | None, *, note: Callable[[str], None]) -> int:
    """The run's seed: given, else the resumed run's, else a random one that all processes share."""
    state = None
    if resumed is not None and options.resume_from is not None:
        state = resume_state(resumed.raw, options.resume_from)
    stored = None if state is None else int(state["seed"])
    if resumed is None and options.seed is None and options.auto_resume:
        stored = last_seed(options.work_dir)
    if options.seed is not None and stored is not None and options.seed != stored:
        note(
            f"seed {options.seed} replaces the resumed run's seed {stored}: the result will differ from an "
            "uninterrupted run's"
        )
    seed = options.seed if options.seed is not None else stored
    return distributed.broadcast_int(seeding.choose_seed(seed), options.device)


def _meta(config: Config, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The fixed part of a checkpoint's ``meta``, with the reference's keys."""
    from detector import __version__

    return {
        "env_info": env_info(),
        "config": config.text(),
        "exp_name": f"{config.name}.py",
        "mmdet_version": FORMAT_VERSION,
        "detector_version": __version__,
        "CLASSES": tuple(class_names),
        "world_size": distributed.world_size(),
    }


def _facts(config: Config, **options: bool) -> dict[str, Any]:
    """What the run's stamp says of its config, data and code, on the process that writes it."""
    return training_facts(config, **options) if distributed.rank() == 0 else {}


def _stamp(config: Config, options: RunOptions, *, seed: int, resumed: Checkpoint | None) -> dict[str, Any]:
    """The run's stamp, for its checkpoints."""
    machine = {
        "device": str(options.device),
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
    }
    seeds = {"seed": seed, "diff_seed": options.diff_seed}
    return training_stamp(options.facts, config, seeds=seeds, machine=machine, resumed=resumed)


def _required(config: Config, key: str) -> dict[str, Any]:
    """A top-level dict of the config."""
    value = config.data.get(key)
    return value if isinstance(value, dict) else _missing(config, key)


def _missing(config: Config, key: str) -> dict[str, Any]:
    raise ConfigError(
        f"{config.path}: {key}: found nothing; expected a dict. Training needs model, data, optimizer, "
        "lr_config and runner."
    )
