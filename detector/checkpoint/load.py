"""Fit a state dict to a model: strict, with a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from detector.checkpoint.describe import class_names, guess_backbone
from detector.checkpoint.files import Checkpoint
from detector.checkpoint.upgrades import upgrade
from detector.errors import CheckpointError

_SHOWN = 10
_IGNORED_PREFIXES = ("ema_",)


@dataclass(frozen=True)
class LoadReport:
    """What happened to every key.

    Attributes:
        matched: keys loaded.
        renamed: old key -> new key, by ``upgrades.py``.
        ignored: keys of the file that are known not to matter.
        missing: keys of the model that the file lacks.
        unexpected: keys of the file that the model lacks.
        mismatched: key -> (shape in the file, shape in the model).
    """

    matched: tuple[str, ...]
    renamed: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, unexpected or of another shape."""
        return not (self.missing or self.unexpected or self.mismatched)

    def summary(self) -> str:
        """One line with the counts."""
        counts = {
            "matched": len(self.matched),
            "renamed": len(self.renamed),
            "ignored": len(self.ignored),
            "missing": len(self.missing),
            "unexpected": len(self.unexpected),
            "of another shape": len(self.mismatched),
        }
        return ", ".join(f"{n} {what}" for what, n in counts.items() if n or what == "matched") + " keys"


def _is_ignored(key: str, buffers: set[str]) -> bool:
    """Whether a key does not matter: moving-average copies, non-persistent buffers, counters of norms."""
    return key.startswith(_IGNORED_PREFIXES) or key in buffers or key.endswith(".num_batches_tracked")


def compare(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], LoadReport]:
    """Tensors of ``state`` that fit ``model``, by the model's keys, and the report; changes nothing."""
    own = model.state_dict()
    upgraded, renamed = upgrade(state, own.keys())
    buffers = {name for name, _ in model.named_buffers()}
    fits: dict[str, Tensor] = {}
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    ignored: list[str] = []
    unexpected: list[str] = []
    for key, value in upgraded.items():
        if key in own and own[key].shape == value.shape:
            fits[key] = value
        elif key in own:
            mismatched[key] = (tuple(value.shape), tuple(own[key].shape))
        else:
            (ignored if _is_ignored(key, buffers) else unexpected).append(key)
    absent = (k for k in own if k not in upgraded and not k.endswith(".num_batches_tracked"))
    return fits, LoadReport(
        matched=tuple(fits),
        renamed=renamed,
        ignored=tuple(ignored),
        missing=tuple(absent),
        unexpected=tuple(unexpected),
        mismatched=mismatched,
    )


def _listed(title: str, keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{title} ({len(keys)}): {', '.join(keys[:_SHOWN])}{more}"


@dataclass(frozen=True)
class Sides:
    """What is known of the file and of the model besides their keys, each as (file, model).

    Attributes:
        classes: number of classes.
        backbones: what the keys look like, such as 'ResNet-50'.
    """

    classes: tuple[int | None, int | None] = (None, None)
    backbones: tuple[str | None, str | None] = (None, None)


def likely_cause(report: LoadReport, sides: Sides = Sides()) -> str:
    """A guess at why the keys differ, from the shape of the differences."""
    odd = list(report.mismatched)
    differing = [*report.missing, *report.unexpected, *odd]
    backbone = [k for k in differing if k.startswith("backbone.")]
    if not report.matched:
        return "the file belongs to another model altogether, or its keys carry an unknown prefix."
    if not (report.missing or report.unexpected) and _only_outputs_differ(report):
        return _other_outputs(report, sides.classes)
    found, wanted = sides.backbones
    if backbone and (len(backbone) * 2 >= len(differing) or (found and wanted and found != wanted)):
        named = f" ({found} in the file, {wanted} in the model)" if found and found != wanted else ""
        return f"another backbone{named or ' (depth or type)'}: use the config the file was trained with."
    if any("mask_head" in k for k in differing) and all("mask" in k for k in differing):
        return "one of the two has a mask head and the other has none: Mask R-CNN against Faster R-CNN."
    return "the config describes another model than the file's: use the config the file was trained with."


def _only_outputs_differ(report: LoadReport) -> bool:
    """Whether every tensor of another shape belongs to a head and differs in its number of outputs alone."""
    return all(
        not key.startswith(("backbone.", "neck."))
        and found[1:] == wanted[1:]
        and len(found) == len(wanted) > 0
        for key, (found, wanted) in report.mismatched.items()
    )


def _other_outputs(report: LoadReport, classes: tuple[int | None, int | None]) -> str:
    """The cause in words; a box head's ``fc_cls`` has one output more than classes, for the background."""
    odd = list(report.mismatched)
    order = ("fc_cls", "conv_logits", "cls")
    key = next((k for part in order for k in odd if part in k), odd[0])
    found, wanted = (shape[0] for shape in report.mismatched[key])
    advice = "Use the config the file was trained with, or set num_classes of the heads."
    if any(
        "reg" in k.rsplit(".", 1)[0] and "fc_reg" not in k for k in odd
    ):  # a place's boxes know no classes
        return (
            f"another number of anchors or other outputs per place: the file's {key} has {found}, the "
            f"model's {wanted}. Use the config the file was trained with."
        )
    if "fc_cls" in key or "conv_logits" in key:
        extra = 1 if "fc_cls" in key else 0
        return (
            f"another number of classes: the file's {key} has {found - extra}, the model's {wanted - extra}. "
            f"{advice}"
        )
    known = [
        f"{side} {count} classes"
        for side, count in zip(("the file names", "the model has"), classes, strict=True)
        if count is not None
    ]
    names = f" ({', '.join(known)})" if known else ""
    outputs = f"the file's {key} has {found} outputs, the model's {wanted}"
    return f"another number of classes{names}: {outputs}. {advice}"


def _sides(
    model: nn.Module, checkpoint: Checkpoint | Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> Sides:
    """What the file and the model say of themselves."""
    count: Any = getattr(model, "num_classes", None)
    named = len(class_names(checkpoint)) if isinstance(checkpoint, Checkpoint) else 0
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return Sides(
        classes=(named or None, count if isinstance(count, int) else None),
        backbones=(guess_backbone({k: tuple(v.shape) for k, v in state.items()}), guess_backbone(own)),
    )


def _differences(report: LoadReport) -> str:
    """The first keys of each kind."""
    shapes = [f"{k} {list(a)} in the file, {list(b)} in the model" for k, (a, b) in report.mismatched.items()]
    kinds = {
        "missing in the file": report.missing,
        "not in the model": report.unexpected,
        "of another shape": shapes,
    }
    return "; ".join(_listed(title, keys) for title, keys in kinds.items() if keys)


def load_state(
    model: nn.Module, checkpoint: Checkpoint | Mapping[str, Tensor], *, strict: bool = True
) -> LoadReport:
    """Copy a checkpoint into a model, on whatever device the model is.

    Args:
        model: changed in place; untouched when an error is raised.
        checkpoint: a checkpoint or a state dict.
        strict: raise on any difference that ``LoadReport`` does not list as ignored; False loads what fits.

    Raises:
        CheckpointError: with the first keys of each kind and the likely cause.
    """
    state = checkpoint.state_dict if isinstance(checkpoint, Checkpoint) else checkpoint
    where = str(checkpoint.path) if isinstance(checkpoint, Checkpoint) and checkpoint.path else "checkpoint"
    fits, report = compare(model, state)
    if strict and not report.complete:
        cause = likely_cause(report, _sides(model, checkpoint, state))
        raise CheckpointError(
            f"{where}: does not fit the model. Likely cause: {cause} {_differences(report)}."
        )
    with torch.no_grad():
        model.load_state_dict(fits, strict=False)
    return report
