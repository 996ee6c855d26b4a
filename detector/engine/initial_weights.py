"""A run's first weights: ``load_from``, ``pretrained`` and ``init_cfg=dict(type='Pretrained')``.

Where a weights URI leads is the matter of ``checkpoint/weights.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from detector.checkpoint.files import load_checkpoint
from detector.checkpoint.load import LoadReport, load_state
from detector.checkpoint.weights import resolve_weights
from detector.config.mmdet_v2 import unroll_rfp
from detector.engine import distributed
from detector.errors import CheckpointError
from detector.progress import Progress

WITHOUT = (
    "Or train without it: --cfg-options model.backbone.init_cfg=None (model.pretrained=None in old configs)."
)

WITHOUT_LOAD_FROM = "Or train without it: --cfg-options load_from=None (from random or pretrained weights)."
SHOWN = 10


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


def requested(model_cfg: Mapping[str, Any]) -> list[Pretrained]:
    """All requests for pretrained weights in a model config of the dialect, outermost first."""
    found = []
    if isinstance(model_cfg.get("pretrained"), str):
        found.append(Pretrained(module="backbone", uri=model_cfg["pretrained"]))
    found.extend(_walk(unroll_rfp(model_cfg), ()))
    return found


def load_pretrained(model: nn.Module, request: Pretrained) -> LoadReport:
    """Put one request's weights into ``model``; keys that the module lacks (a classifier) are left out.

    Raises:
        CheckpointError: the file is missing, or no key of it fits.
    """
    try:
        path = local_file(request.uri)
    except CheckpointError as error:
        raise CheckpointError(f"{error} {WITHOUT}") from error
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

    Tensors of ``load_from`` that do not fit, such as the outputs of heads for other classes, are left out, as
    the reference does, and named.

    Returns:
        what each file filled; for ``load_from`` also what it did not.

    Raises:
        CheckpointError: a file is missing, or no key of it fits.
    """
    lines = []
    checkpoint = load_checkpoint(_placed(load_from)) if load_from else None
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
        lines.extend(_told(f"load_from {load_from}", report))
    return lines


def _placed(load_from: str) -> Path:
    """File of the config's ``load_from``."""
    try:
        return local_file(load_from)
    except CheckpointError as error:
        raise CheckpointError(f"load_from: {error} {WITHOUT_LOAD_FROM}") from error


def local_file(uri: str) -> Path:
    """File of a URI; process 0 shows a download."""
    with ExitStack() as stack:

        def progress(name: str) -> Callable[[int, int], None]:
            shown = Progress(None, f"fetch {name}", unit="B", enabled=distributed.rank() == 0)
            return stack.enter_context(shown)

        return resolve_weights(uri, progress=progress)


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
        for i, item in enumerate(value if isinstance(value, list | tuple) else ()):
            if isinstance(item, Mapping) and "type" in item and key != "init_cfg":
                yield from _walk(item, (*path, key, str(i)))


def _told(what: str, report: LoadReport) -> list[str]:
    """What a file filled, and every tensor that keeps its first random values, by name."""
    lines = [f"{what}: {report.summary()}"]
    if report.mismatched:
        names = [
            f"{key} ({list(found)} in the file, {list(wanted)} here)"
            for key, (found, wanted) in report.mismatched.items()
        ]
        lines.append(
            f"{what}: of another shape, so they start from random values, as heads for other classes do: "
            f"{', '.join(names)}"
        )
    kinds = {
        "not in the file, so they start from random values": report.missing,
        "in the file, but not in the model": report.unexpected,
    }
    lines.extend(f"{what}: {kind}: {_listed(keys)}" for kind, keys in kinds.items() if keys)
    return lines


def _listed(names: Sequence[str]) -> str:
    """Names with a comma, those after the first few as a number."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
