"""A run's first weights: ``load_from``, ``pretrained`` and ``init_cfg=dict(type='Pretrained')``.

A weights URI is a local path, ``torchvision://<model>``, ``open-mmlab://<name>`` or a web address. It
resolves to a local file only;
what is not there is an error that says which file to place where.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from detector.checkpoint.files import load_checkpoint
from detector.checkpoint.load import LoadReport, load_state
from detector.errors import CheckpointError

TORCHVISION = "torchvision://"
OPEN_MMLAB = "open-mmlab://"
WEB = ("https://", "http://")
OPEN_MMLAB_TABLE = "hub/openmmlab.json"  # in the mmengine package; read as data


@dataclass(frozen=True)
class Pretrained:
    """One request of a config for pretrained weights.

    Attributes:
        module: dotted path of the module they go to, '' for the whole model.
        uri: where they are.
        prefix: only the keys that start with it, without it; None for all keys.
    """

    module: str
    uri: str
    prefix: str | None = None


def weight_folders() -> list[Path]:
    """Folders that are searched for weights, the first one being where to place a file."""
    cache = os.environ.get("DETECTOR_CACHE")
    torch_home = Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch")
    return [(Path(cache) if cache else Path(".cache")) / "weights", torch_home / "hub" / "checkpoints"]


def resolve_weights(uri: str) -> Path:
    """Local file of a weights URI.

    Args:
        uri: path, ``torchvision://resnet50``, ``open-mmlab://detectron2/resnet50_caffe`` or a web address.

    Raises:
        CheckpointError: unknown name, or the file is not on this machine.
    """
    path = Path(uri).expanduser()
    if path.is_file():
        return path
    url = weights_url(uri)
    if url is None:
        raise CheckpointError(
            f"weights: found no file {uri!r} (from {Path.cwd()}). Give a path that exists, or a URL."
        )
    name = url.rsplit("/", 1)[-1].split("?")[0]
    folders = weight_folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"weights: {uri!r} needs the file {name}, which is not in {' or '.join(map(str, folders))}. "
        f"Fetch {url} and place it at {folders[0] / name}, or train without it: "
        "--cfg-options model.backbone.init_cfg=None (model.pretrained=None in old configs)."
    )


def weights_url(uri: str) -> str | None:
    """Web address of a URI; None for a plain path.

    Raises:
        CheckpointError: the name after ``torchvision://`` or ``open-mmlab://`` is unknown.
    """
    if uri.startswith(WEB):
        return uri
    if uri.startswith(TORCHVISION):
        return _torchvision_url(uri.removeprefix(TORCHVISION))
    if uri.startswith(OPEN_MMLAB):
        return _open_mmlab_url(uri.removeprefix(OPEN_MMLAB))
    return None


def requested(model_cfg: Mapping[str, Any]) -> list[Pretrained]:
    """All requests for pretrained weights in a model config of the dialect, outermost first."""
    found = []
    if isinstance(model_cfg.get("pretrained"), str):
        found.append(Pretrained(module="backbone", uri=model_cfg["pretrained"]))
    found.extend(_walk(model_cfg, ()))
    return found


def load_pretrained(model: nn.Module, request: Pretrained) -> LoadReport:
    """Put one request's weights into ``model``; keys that the module lacks (a classifier) are left out.

    Raises:
        CheckpointError: the file is missing, or no key of it fits.
    """
    path = resolve_weights(request.uri)
    state: Mapping[str, Any] = load_checkpoint(path).state_dict
    if request.prefix is not None:
        start = request.prefix.rstrip(".") + "."
        state = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    target = model.get_submodule(request.module)
    report = load_state(target, dict(state), strict=False)
    if not report.matched:
        raise CheckpointError(
            f"{path}: none of its {len(state)} tensors fits model.{request.module}; expected names such as "
            f"{', '.join(list(target.state_dict())[:3])}. Check init_cfg (prefix={request.prefix!r})."
        )
    return report


def load_weights(model: nn.Module, model_cfg: Mapping[str, Any], *, load_from: str | None) -> list[str]:
    """First weights of a run that does not resume: pretrained parts, then ``load_from`` over them.

    A pretrained part that ``load_from`` fills completely is not looked for.

    Returns:
        one line per file, saying what it filled.

    Raises:
        CheckpointError: a file is missing, or no key of it fits.
    """
    lines = []
    checkpoint = load_checkpoint(resolve_weights(load_from)) if load_from else None
    provided = set(checkpoint.state_dict) if checkpoint is not None else set()
    for request in requested(model_cfg):
        start = f"{request.module}." if request.module else ""
        wanted = {
            key
            for key in model.state_dict()
            if key.startswith(start) and not key.endswith("num_batches_tracked")
        }
        if wanted <= provided:
            continue
        report = load_pretrained(model, request)
        lines.append(f"{request.uri}: {len(report.matched)} tensors into model.{request.module}")
    if checkpoint is not None:
        report = load_state(model, checkpoint, strict=False)
        if not report.matched:
            raise CheckpointError(
                f"load_from {load_from}: none of its {len(checkpoint.state_dict)} tensors fits the model; "
                f"found names such as {', '.join(list(checkpoint.state_dict)[:3])}; expected names such as "
                f"{', '.join(list(model.state_dict())[:3])}. Give a checkpoint of such a model, or none."
            )
        lines.append(
            f"load_from {load_from}: {len(report.matched)} tensors, {len(report.missing)} missing, "
            f"{len(report.mismatched)} of another shape{_first(report.mismatched)}"
        )
    return lines


def _walk(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Pretrained]:
    """Requests below one module's config."""
    inits = node.get("init_cfg")
    for init in inits if isinstance(inits, list | tuple) else [inits]:
        if isinstance(init, Mapping) and init.get("type") == "Pretrained":
            yield Pretrained(module=".".join(path), uri=str(init["checkpoint"]), prefix=init.get("prefix"))
    for key, value in node.items():
        if (
            isinstance(value, Mapping)
            and "type" in value
            and key not in ("init_cfg", "train_cfg", "test_cfg")
        ):
            yield from _walk(value, (*path, key))


def _torchvision_url(name: str) -> str:
    """Address of torchvision's ImageNet weights (their first version, as the reference's configs mean)."""
    from torchvision import models

    try:
        weights = models.get_model_weights(name)
    except ValueError as error:
        raise CheckpointError(
            f"weights: torchvision has no model {name!r}. Use a name such as torchvision://resnet50."
        ) from error
    return str(next(iter(weights)).url)


def _open_mmlab_url(name: str) -> str:
    """Address of a name in OpenMMLab's table."""
    spec = importlib.util.find_spec("mmengine")
    table = Path(spec.origin).parent / OPEN_MMLAB_TABLE if spec is not None and spec.origin else None
    names: dict[str, str] = json.loads(table.read_text()) if table is not None and table.is_file() else {}
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean open-mmlab://{near[0]}?" if near else ""
        raise CheckpointError(f"weights: open-mmlab:// has no {name!r}.{hint}")
    return names[name]


def _first(names: Any) -> str:
    """The first few names in brackets, '' for none."""
    listed = [str(name) for name in names][:3]
    return f" ({', '.join(listed)})" if listed else ""
