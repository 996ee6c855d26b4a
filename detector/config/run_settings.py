"""Bring the run-level part of a config (everything but the model) to one form.

Each function is pure and handles one habit of MMDetection 2.x configs. Order, as in MMDetection's tools:
``${key}`` strings and ``MMDET_DATASETS`` before the overrides, legacy keys after them.
"""

from __future__ import annotations

import difflib
import logging
import re
from typing import Any

from detector.config.origin import Origin, Tree, expanded, first_line, subtree
from detector.errors import ConfigError

logger = logging.getLogger(__name__)

KNOWN_KEYS = frozenset([
    "model", "train_cfg", "test_cfg", "model_wrapper", "data",
    "optimizer", "optimizer_config", "lr_config", "momentum_config", "runner", "total_epochs", "workflow",
    "evaluation", "checkpoint_config", "log_config", "log_level", "custom_hooks", "custom_imports",
    "work_dir", "load_from", "resume_from", "auto_resume", "auto_scale_lr", "fp16", "seed", "deterministic",
    "device", "channels_last", "gpus", "gpu_ids", "dist_params", "find_unused_parameters",
    "cudnn_benchmark", "opencv_num_threads", "mp_start_method", "precision",
])  # fmt: skip
SPLITS = ("train", "val", "test")
LOADER_KEYS = ("samples_per_gpu", "imgs_per_gpu", "workers_per_gpu", "persistent_workers")
KNOWN_DATA_KEYS = frozenset([*SPLITS, *(f"{split}_dataloader" for split in SPLITS), *LOADER_KEYS])
# similarity from which a variable's name counts as a misspelt key; the zoo's variables reach 0.81
MISSPELT = 0.85
# MMDetection's defaults, of its train_detector and tools/test.py
LOADER_DEFAULTS = {"train": 2, "val": 1, "test": 1}
WORKERS_DEFAULT = 2
DATASETS_VARIABLE = "MMDET_DATASETS"
DEFAULT = Origin("MMDetection's default", 0)

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def check_names(data: dict[str, Any], tree: Tree) -> None:
    """Refuse keys that nothing reads.

    At the top level a file may define variables of its own, so only a name that is nearly a known one is
    refused.

    Raises:
        ConfigError: names the key, its file and line, and the nearest known key.
    """
    for key in data.keys() - KNOWN_KEYS:
        near = difflib.get_close_matches(key, sorted(KNOWN_KEYS), n=1, cutoff=MISSPELT)
        if near:
            raise ConfigError(
                f"{first_line(subtree(tree, key))}: unknown key '{key}'; expected one of MMDetection's, "
                f"probably '{near[0]}'. Correct it; a variable of the file needs a less similar name."
            )
    section = data.get("data")
    for key in section.keys() - KNOWN_DATA_KEYS if isinstance(section, dict) else ():
        near = difflib.get_close_matches(str(key), sorted(KNOWN_DATA_KEYS), n=1, cutoff=0.5)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        where = first_line(subtree(subtree(tree, "data"), key))
        raise ConfigError(
            f"{where}: unknown key 'data.{key}'{hint}; expected one "
            f"of {', '.join(sorted(KNOWN_DATA_KEYS))}. Correct or remove it."
        )


def normalise(data: dict[str, Any], tree: Tree) -> tuple[dict[str, Any], Tree, tuple[str, ...]]:
    """Rewrite legacy run-level keys and complete the loaders; see the single steps for what each does.

    Raises:
        ConfigError: ``data`` or a loader is no dict, or a key is given in its old and its new place.
    """
    values, trees = dict(data), expanded(data, tree)
    notes: list[str] = []
    _complete_runner(values, trees, notes)
    if "data" in values:
        if not isinstance(values["data"], dict):
            raise ConfigError(
                f"{first_line(trees['data'])}: data is {values['data']!r}; expected dict(train=..., val=..., "
                "test=...). Write it so."
            )
        values["data"], trees["data"] = _normalise_data(
            dict(values["data"]), expanded(values["data"], trees["data"]), notes
        )
    return values, trees, tuple(notes)


def _complete_runner(values: dict[str, Any], trees: dict[Any, Tree], notes: list[str]) -> None:
    """Give configs of before 2.5 their ``runner``: ``total_epochs`` epochs."""
    if "total_epochs" not in values:
        if "optimizer" in values and "runner" not in values:
            raise ConfigError(
                f"{first_line(trees['optimizer'])}: this config gives an optimizer but no runner; expected "
                "for instance runner = dict(type='EpochBasedRunner', max_epochs=12). Add it."
            )
        return
    if "runner" not in values:
        values["runner"] = {"type": "EpochBasedRunner", "max_epochs": values["total_epochs"]}
        trees["runner"] = trees["total_epochs"]
        notes.append(
            f"no runner given: total_epochs = {values['total_epochs']} is used as runner.max_epochs."
        )
    elif isinstance(values["runner"], dict) and values["runner"].get("max_epochs") != values["total_epochs"]:
        raise ConfigError(
            f"{first_line(trees['total_epochs'])}: total_epochs = {values['total_epochs']} contradicts "
            f"runner = {values['runner']!r}; expected one of them. Remove total_epochs."
        )


def _normalise_data(
    data: dict[str, Any], tree: dict[Any, Tree], notes: list[str]
) -> tuple[dict[str, Any], Tree]:
    """Move batch size and worker count into the three ``*_dataloader`` dicts; fill in the defaults."""
    if "imgs_per_gpu" in data:
        data["samples_per_gpu"], tree["samples_per_gpu"] = data.pop("imgs_per_gpu"), tree.pop("imgs_per_gpu")
        notes.append(
            f"data.imgs_per_gpu is the old name of data.samples_per_gpu; {data['samples_per_gpu']} is used."
        )
    loaders = {split: _own_loader(data, tree, split) for split in SPLITS}
    for key in ("samples_per_gpu", "persistent_workers"):
        if key in data:
            _move(f"data.{key}", data.pop(key), tree.pop(key), loaders["train"], key, "train")
    if "workers_per_gpu" in data:
        workers, origin = data.pop("workers_per_gpu"), tree.pop("workers_per_gpu")
        for values, trees in loaders.values():
            values["workers_per_gpu"], trees["workers_per_gpu"] = workers, origin
    for split in ("val", "test"):
        _take_batch_size(data, tree, split, loaders[split])
    for split, (values, trees) in loaders.items():
        defaults = {"samples_per_gpu": LOADER_DEFAULTS[split], "workers_per_gpu": WORKERS_DEFAULT}
        for key in defaults.keys() - values.keys():
            trees[key] = DEFAULT
        data[f"{split}_dataloader"] = {**defaults, **values}
        size = data[f"{split}_dataloader"]["samples_per_gpu"]
        if split != "train" and split in data and size > 1:
            data[split] = _batched(data[split], split, size, notes)
    return data, tree


def _batched(dataset: Any, split: str, size: int, notes: list[str]) -> Any:
    """The data set with pipelines for batches; says so where that changes one."""
    changed = batched_pipelines(dataset)
    if changed != dataset:
        notes.append(
            f"data.{split}.pipeline: ImageToTensor is read as DefaultFormatBundle, which batches of {size} "
            "images need."
        )
        logger.warning("%s", notes[-1])
    return changed


Loader = tuple[dict[str, Any], dict[Any, Tree]]


def _own_loader(data: dict[str, Any], tree: dict[Any, Tree], split: str) -> Loader:
    """Replace ``data``'s ``<split>_dataloader`` by a copy (empty if none); return it and its origins."""
    name = f"{split}_dataloader"
    given = data.get(name, {})
    if not isinstance(given, dict):
        raise ConfigError(
            f"{first_line(tree[name])}: data.{name} is {given!r}; expected a dict. Write it so."
        )
    data[name] = dict(given)
    trees = tree[name] = expanded(given, tree.get(name, DEFAULT))
    return data[name], trees


def _move(place: str, value: Any, origin: Tree, loader: Loader, key: str, split: str) -> None:
    if key in loader[0]:
        raise ConfigError(
            f"{first_line(origin)}: {place} and data.{split}_dataloader.{key} are both given; expected one "
            f"of them. Remove {place}."
        )
    loader[0][key], loader[1][key] = value, origin


def _take_batch_size(data: dict[str, Any], tree: dict[Any, Tree], split: str, loader: Loader) -> None:
    """Move ``data.val.samples_per_gpu`` to its loader; of a list of data sets the largest counts."""
    given = data.get(split)
    datasets = given if isinstance(given, (list, tuple)) else [given]
    sizes = [d["samples_per_gpu"] for d in datasets if isinstance(d, dict) and "samples_per_gpu" in d]
    if not sizes:
        return
    origin = first_line(tree[split]) or DEFAULT
    if isinstance(given, dict):
        origin = first_line(subtree(tree[split], "samples_per_gpu")) or origin
    _move(f"data.{split}.samples_per_gpu", max(sizes), origin, loader, "samples_per_gpu", split)
    kept = [
        {k: v for k, v in d.items() if k != "samples_per_gpu"} if isinstance(d, dict) else d for d in datasets
    ]
    data[split] = type(given)(kept) if isinstance(given, (list, tuple)) else kept[0]


def batched_pipelines(dataset: Any) -> Any:
    """Return a data set dict (or a list, or a wrapper of them) with pipelines for batches."""
    if isinstance(dataset, (list, tuple)):
        return type(dataset)(batched_pipelines(d) for d in dataset)
    if not isinstance(dataset, dict):
        return dataset
    changed = dict(dataset)
    for key in ("dataset", "datasets"):
        if key in changed:
            changed[key] = batched_pipelines(changed[key])
    if isinstance(changed.get("pipeline"), (list, tuple)):
        changed["pipeline"] = replace_image_to_tensor(changed["pipeline"])
    return changed


def replace_image_to_tensor(
    pipeline: list[dict[str, Any]] | tuple[dict[str, Any], ...],
) -> list[dict[str, Any]]:
    """Return the pipeline with ``DefaultFormatBundle`` in the place of every ``ImageToTensor``.

    Batches of more than one image need it, as does inference on arrays; ``MultiScaleFlipAug`` is looked into.
    """
    steps: list[dict[str, Any]] = []
    for step in pipeline:
        if step.get("type") == "ImageToTensor":
            steps.append({"type": "DefaultFormatBundle"})
        elif "transforms" in step and step.get("type") == "MultiScaleFlipAug":
            steps.append({**step, "transforms": replace_image_to_tensor(step["transforms"])})
        else:
            steps.append(dict(step))
    return steps
