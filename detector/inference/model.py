"""Building a detector for inference: config, weights, class names, and how it runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MethodType
from typing import Any, cast

from torch import nn

from detector.build import build_model
from detector.checkpoint.files import load_checkpoint
from detector.checkpoint.load import load_state
from detector.checkpoint.registered import is_registered, registered
from detector.checkpoint.weights import resolve_weights
from detector.config import Config, load_config
from detector.config.load import config_from_text
from detector.config.resolve import config_names
from detector.config.text import format_config
from detector.data.datasets import DATASETS
from detector.data.datasets.classes import read_classes
from detector.data.datasets.source import colours
from detector.engine import distributed
from detector.engine.placement import KEY, place_model
from detector.errors import ConfigError
from detector.inference.acceleration import accelerate
from detector.inference.prediction import num_labels, predict, test_settings
from detector.inference.showing import show_result
from detector.lineage.models import note_checkpoint
from detector.zoo.index import models as zoo_models

logger = logging.getLogger(__name__)


def init_detector(
    config: str | Path | Config | Any,
    checkpoint: str | Path | None = None,
    device: str = "cuda:0",
    cfg_options: Mapping[str, Any] | None = None,
    *,
    precision: str = "fp32",
    channels_last: bool | None = None,
    compile: bool | str = False,
    fuse_conv_bn: bool = False,
) -> nn.Module:
    """Build a detector for inference.

    Args:
        config: config file, a loaded config (ours, or mmcv's or mmengine's), or a name. The name of a
            published model ('mask_rcnn_r50_fpn_1x_coco') without ``checkpoint`` also gives its weights: from
            the cache, or downloaded once. A registered model ('models:/mask_rcnn@best',
            'models:/mask_rcnn/3') gives its weights and, from them, its config.
        checkpoint: weights, a path, an address or a registered model; None leaves the model of a file or a
            config with the values it was built with.
        device: 'cuda:0', 'cpu' ...
        cfg_options: dotted keys over the config.
        precision: 'fp32', or 'fp16' or 'bf16' for the convolutions and linear layers. As in the reference, a
            config's ``fp16`` matters to training and to ``detector test`` but not here.
        channels_last: lay the channels innermost; None for what is faster: on the CPU yes.
        compile: compile backbone and neck by ``torch.compile``, once per input size; sizes are rounded up to
            multiples of 64 pixels so that there are few. A string names torch's backend.
        fuse_conv_bn: fold batch norms into the convolutions before them for good: faster on a GPU; on a CPU
            that is done at every call anyway.

    Returns:
        the model in eval mode, with ``model.cfg`` (the Config), ``model.CLASSES``, ``model.PALETTE``,
        ``model.predict`` and ``model.show_result``.

    Raises:
        ConfigError: the config cannot be read or built, or an option is unknown.
        CheckpointError: the weights are not here, or do not fit.
        MachineError: the device is not there.
    """
    where = distributed.resolve_device(device)
    published = _published(config) if checkpoint is None else None
    if published is not None:
        checkpoint = published.weights
    whole = checkpoint is None and is_registered(config)
    if whole:
        checkpoint = str(config)
    file = None if checkpoint is None else load_checkpoint(_weights_file(checkpoint))
    stored = None if file is None else file.meta.get("config")
    loaded = _config_of(config, cfg_options, stored, whole=whole)
    model: Any = build_model(loaded.data["model"], training=False, test_cfg=loaded.data.get("test_cfg"))
    classes: tuple[str, ...] | None = None
    if file is not None:
        note_checkpoint(loaded, str(checkpoint), file)
        load_state(model, file, strict=True)
        names = file.meta.get("CLASSES")
        classes = ((names,) if isinstance(names, str) else tuple(names)) if names else None
    model.CLASSES = _class_names(model, classes or _config_classes(loaded))
    model.PALETTE = _palette(loaded, model.CLASSES)
    model.cfg = loaded
    model.show_result = MethodType(show_result, model)
    model.predict = MethodType(predict, model)
    settings = loaded.data if channels_last is None else {**loaded.data, KEY: channels_last}
    placed = place_model(model, where, settings).eval()
    return accelerate(placed, where, precision=precision, compile=compile, fuse_conv_bn=fuse_conv_bn)


def _published(config: Any) -> Any:
    """The published model that a bare name means, else None."""
    name = str(config)
    if not isinstance(config, str) or Path(name).suffix or len(Path(name).parts) > 1:
        return None
    return zoo_models().get(name)


def _weights_file(checkpoint: str | Path) -> Path:
    """The file of a path, an address or a registered model."""
    if is_registered(checkpoint):
        return registered(str(checkpoint))
    remote = "://" in str(checkpoint)
    return resolve_weights(str(checkpoint)) if remote else Path(checkpoint)


def _config_of(config: Any, options: Mapping[str, Any] | None, stored: Any, *, whole: bool = False) -> Config:
    """The effective config.

    Args:
        config: as ``init_detector`` takes it.
        options: overrides.
        stored: config text of the checkpoint, for a published name without a config file here.
        whole: whether ``config`` names a registered model, whose config is the checkpoint's.

    Raises:
        ConfigError: no config can be had from it.
    """
    if whole:
        if isinstance(stored, str):
            return config_from_text(stored, name=f"{config} (of its checkpoint)", options=options)
        raise ConfigError(
            f"{config}: its checkpoint holds no config in meta['config']; expected one, as every checkpoint "
            "of `detector train` has it. Give the config first and this name as the checkpoint."
        )
    if isinstance(config, Config):
        if not options:
            return config
        return config_from_text(config.text(), name=str(config.path), options=options)
    if isinstance(config, str | Path):
        published = _published(config)
        if published is not None and isinstance(stored, str) and str(config) not in config_names():
            return config_from_text(stored, name=f"{config} (of its checkpoint)", options=options)
        return load_config(config, options)
    if hasattr(config, "pretty_text"):  # mmcv's and mmengine's Config
        return config_from_text(config.pretty_text, name=str(config.filename or "<config>"), options=options)
    if isinstance(config, Mapping):
        return config_from_text(format_config(config), name="<config>", options=options)
    raise ConfigError(
        f"init_detector: config is a {type(config).__name__}; expected a path, a name or a Config."
    )


def _config_classes(config: Config) -> tuple[str, ...]:
    """Classes of the config's test data, for a checkpoint that names none."""
    settings = test_settings(config)
    if settings.get("classes"):
        return read_classes(settings["classes"], where="data.test.classes")
    kind = DATASETS.get(str(settings.get("type")))
    return kind.CLASSES if kind is not None else ()


def _palette(config: Config, names: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """RGB colours of the classes: of the config's data set where it has them."""
    kind = DATASETS.get(str(test_settings(config).get("type")))
    known = dict(zip(kind.CLASSES, kind.PALETTE, strict=False)) if kind is not None else {}
    return colours(names, known)


def _class_names(model: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    """A name for each label of the model: the given ones if they fit, else numbered ones."""
    if cast(Any, model).num_classes is None:
        return ("object",)
    count = num_labels(model)
    if len(names) == count:
        return names
    logger.warning(
        "classes: found %d names for a model of %d classes; its labels are called 'class 0' to 'class %d'. "
        "Set data.test.classes, or use a checkpoint that names its classes.",
        len(names),
        count,
        count - 1,
    )
    return tuple(f"class {label}" for label in range(count))
