"""``train``: puts a run together from its config and runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detector.build import build_model
from detector.checkpoint.files import Checkpoint, load_checkpoint, manifest_path
from detector.checkpoint.load import load_state
from detector.config import Config
from detector.data.datasets import build_dataset
from detector.data.loader import TrainLoader, build_train_loader
from detector.engine import distributed, seeding
from detector.engine.checkpoints import FORMAT_VERSION, RunCheckpoints, find_resume_point
from detector.engine.evaluate import check_classes, evaluate_results, infer_dataset, split_dataset
from detector.engine.gathering import open_exchange
from detector.engine.initial_weights import load_weights
from detector.engine.log import TrainLog, env_info, timestamp
from detector.engine.optim import build_optimizer
from detector.engine.placement import place_model
from detector.engine.preflight import before_evaluation, before_training
from detector.engine.resume import restore, resume_state
from detector.engine.schedules import build_schedule
from detector.engine.scoring import check_evaluation
from detector.engine.settings import check_sections, read_plan, without_effect
from detector.engine.teachers import attach_teacher
from detector.engine.trainer import Evaluate, Metrics, Trainer, wrap_for_ranks
from detector.errors import CheckpointError, ConfigError
from detector.evaluation.files import write_bytes
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
    validate: bool = True


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
    options = RunOptions(
        work_dir=work_dir,
        seed=seed if seed is not None else config.data.get("seed"),
        diff_seed=diff_seed,
        device=distributed.resolve_device(device or config.data.get("device")),
        resume_from=_resume_source(config, work_dir, resume_from, auto_resume=auto_resume, note=notes.append),
        validate=validate,
    )
    check_sections(config.data)
    config = _scaled(config, enabled=auto_scale_lr, note=notes.append)
    if config.data.get("fp16"):
        notes.append("the config's fp16 has no effect: half precision is not built in yet, this is float32")
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
    max_iterations = plan.max_iterations(len(loader))
    progress = _progress(config, max_iterations)
    wrapped = wrap_for_ranks(
        model, options.device, find_unused_parameters=bool(cfg.get("find_unused_parameters", False))
    )
    trainer = Trainer(
        model=model,
        loss_module=wrapped,
        optimizer=build_optimizer(model, _required(config, "optimizer")),
        schedule=build_schedule(cfg.get("lr_config"), by_epoch=plan.by_epoch),
        loader=loader,
        plan=plan,
        log=_log(options, show=progress.note),
        checkpoints=RunCheckpoints(options.work_dir, max_keep=plan.max_keep_checkpoints),
        meta=_meta(config, loader.dataset.class_names),
        seed=seed,
        rank_offset=distributed.rank() if options.diff_seed else 0,
        device=options.device,
        evaluate=_evaluation(config, model, options, loader.dataset.class_names, note=note)
        if plan.evaluation is not None
        else None,
        progress=progress,
    )
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
) -> Evaluate:
    """Evaluation on the config's val split; all is built and checked now, so that errors come early."""
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
        if exchange is None:
            return evaluate_results(config, dataset, results), batches
        return exchange.on_first(lambda: evaluate_results(config, dataset, results)) or {}, batches

    return evaluate


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


def _resume_source(
    config: Config,
    work_dir: Path,
    resume_from: str | Path | None,
    *,
    auto_resume: bool,
    note: Callable[[str], None],
) -> Path | None:
    """The checkpoint to continue from, or None."""
    given = resume_from or config.data.get("resume_from")
    if given:
        path = Path(given)
        if not path.is_file():
            raise CheckpointError(
                f"resume_from: found no file {path}; expected a checkpoint. Give one from the run's work_dir."
            )
        return path
    if not (auto_resume or config.data.get("auto_resume")):
        return None
    found, damaged = find_resume_point(work_dir)
    for path in damaged:
        note(f"auto-resume: {path} is damaged or incomplete and is passed over")
    if found is not None and not manifest_path(found).is_file():
        note(f"auto-resume: {found} has no digest beside it; it is used, since it can be read")
    note(
        f"auto-resume: continuing from {found}"
        if found
        else f"auto-resume: no intact checkpoint in {work_dir}; starting afresh"
    )
    return found


def _seed(options: RunOptions, resumed: Checkpoint | None, *, note: Callable[[str], None]) -> int:
    """The run's seed: given, else the resumed run's, else a random one that all processes share."""
    state = None
    if resumed is not None and options.resume_from is not None:
        state = resume_state(resumed.raw, options.resume_from)
    stored = None if state is None else int(state["seed"])
    if options.seed is not None and stored is not None and options.seed != stored:
        note(
            f"seed {options.seed} replaces the resumed run's seed {stored}: the result will differ from an "
            "uninterrupted run's"
        )
    seed = options.seed if options.seed is not None else stored
    return distributed.broadcast_int(seeding.choose_seed(seed), options.device)


def _scaled(config: Config, *, enabled: bool, note: Callable[[str], None]) -> Config:
    """The config with its rate scaled by the batch size, if asked for; else a line when the batch differs."""
    setting = config.data.get("auto_scale_lr") or {}
    base = setting.get("base_batch_size")
    optimizer = config.data.get("optimizer") or {}
    if base is None or not isinstance(optimizer.get("lr"), int | float):
        if enabled:
            note(
                "auto-scale-lr: the config has no auto_scale_lr.base_batch_size or no rate; nothing is scaled"
            )
        return config
    batch = distributed.world_size() * int(config.data["data"]["train_dataloader"]["samples_per_gpu"])
    scaled = optimizer["lr"] * batch / base
    if not (enabled or setting.get("enable")):
        if batch != base:
            note(
                f"batch {batch} (base {base}): the rate stays {optimizer['lr']:g}; --auto-scale-lr would "
                f"make it {scaled:g}"
            )
        return config
    note(f"auto-scale-lr: {optimizer['lr']:g} -> {scaled:g} (batch {batch}, base {base})")
    return replace(config, data={**config.data, "optimizer": {**optimizer, "lr": scaled}})


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


def _required(config: Config, key: str) -> dict[str, Any]:
    """A top-level dict of the config."""
    value = config.data.get(key)
    return value if isinstance(value, dict) else _missing(config, key)


def _missing(config: Config, key: str) -> dict[str, Any]:
    raise ConfigError(
        f"{config.path}: {key}: found nothing; expected a dict. Training needs model, data, optimizer, "
        "lr_config and runner."
    )
