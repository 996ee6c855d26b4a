"""The stamps of what has weights: a training's checkpoints, and what a checkpoint's results are made with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.checkpoint.digest import weights_sha256
from detector.checkpoint.files import Checkpoint
from detector.lineage.data import data_facts
from detector.lineage.stamp import (
    KEY,
    ConfigLike,
    Stamp,
    build,
    collects,
    command,
    config_facts,
    note,
    shown_path,
    without_text,
)
from detector.lineage.surroundings import code_state, run_ids, versions
from detector.whole_files import sha256_file

IN_META = "meta.config"  # where the effective config of a checkpoint is
#: parts that change the weights: a resumed run lists those of an earlier part of it that were others
DECIDING = ("code", "config", "data", "seeds", "options", "versions")


def training_facts(config: ConfigLike, **options: Any) -> dict[str, Any]:
    """What is known of a training before it is put together; hashes the annotation files.

    Args:
        config: effective values, before the rate is scaled.
        options: the arguments that the config does not hold.
    """
    data = config.data.get("data") or {}
    facts: dict[str, Any] = {
        "command": command(),
        "config": config_facts(config),
        "data": data_facts(data.get("train"), data.get("val")),
        "options": options,
        "code": code_state(Path(config.path).parent),
        "versions": {**versions(), "cuda": torch.version.cuda or "none"},
        "runs": run_ids(),
    }
    start = config.data.get("load_from")
    if isinstance(start, str) and Path(start).expanduser().is_file():
        facts["options"] = {**options, "load_from_sha256": sha256_file(Path(start).expanduser())}
    return facts


def training_stamp(
    facts: Mapping[str, Any],
    config: ConfigLike,
    *,
    seeds: Mapping[str, Any],
    machine: Mapping[str, Any],
    resumed: Checkpoint | None,
) -> Stamp:
    """The stamp of a training's checkpoints, apart from their weights.

    Args:
        facts: from ``training_facts``; empty gives an empty stamp.
        config: the one whose text is in the checkpoint's meta.
        seeds: seed and diff_seed.
        machine: device, threads, processes.
        resumed: the checkpoint that the run goes on from.
    """
    if not facts:
        return {}
    own = dict(facts["config"])
    if own["sha256"] == config.sha256() and "masked" not in own:
        own["text"] = IN_META
    stamp = build({**facts, "config": own, "seeds": seeds, "options": {**facts["options"], **machine}})
    if resumed is not None and (before := earlier(stamp, resumed)):
        stamp["resumed_from"] = before
    return stamp


def earlier(stamp: Mapping[str, Any], resumed: Checkpoint) -> list[dict[str, Any]]:
    """What the parts of a resumed run before this one had otherwise: position, and only what differs."""
    old = resumed.meta.get(KEY)
    if not isinstance(old, dict):
        return [{"iteration": resumed.meta.get("iter"), "stamp": "none in the file"}]
    other: dict[str, Any] = {
        key: old.get(key) for key in DECIDING if _comparable(old, key) != _comparable(stamp, key)
    }
    if isinstance(other.get("config"), dict):
        other["config"] = {key: value for key, value in other["config"].items() if key != "text"}
    entry = [{"iteration": resumed.meta.get("iter"), **other}] if other else []
    return [*(old.get("resumed_from") or []), *entry]


def _comparable(stamp: Mapping[str, Any], key: str) -> Any:
    """A part without what cannot change the weights: where a config lies, and how its text is kept."""
    part = stamp.get(key)
    if key == "config" and isinstance(part, dict):
        return part.get("sha256")
    return part.get("annotations") if key == "data" and isinstance(part, dict) else part


def checkpoint_stamp(stamp: Stamp, state: Mapping[str, Tensor]) -> Stamp:
    """A training's stamp for a checkpoint with these weights, with the ids that are known by now."""
    return build({**stamp, "weights_sha256": weights_sha256(state), "runs": run_ids()}) if stamp else {}


def note_checkpoint(config: ConfigLike, checkpoint: str | Path, file: Checkpoint) -> None:
    """Stamp what is written from here on with a config and the weights that were loaded for it.

    Call it before the names in ``file`` are changed.
    """
    if not collects():
        return
    trained = file.meta.get(KEY)
    facts: dict[str, Any] = {
        "path": shown_path(checkpoint),
        "weights_sha256": weights_sha256(file.state_dict),
    }
    if isinstance(trained, dict):
        facts["trained"] = without_text(trained)
    note(config=config_facts(config), checkpoint=facts)


def note_data(section: Any, **options: Any) -> None:
    """Stamp what is written from here on with the data of a dataset section, and with options."""
    if collects():
        note(data=data_facts(section), options=options)
