"""Fit a state dict to a model: strict, with a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

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


def likely_cause(report: LoadReport) -> str:
    """A guess at why the keys differ, from the shape of the differences."""
    outputs = ("fc_cls", "fc_reg", "conv_logits", "retina_cls", "conv_cls", "cls_convs")
    odd = list(report.mismatched)
    if (
        odd
        and all(any(part in key for part in outputs) for key in odd)
        and not (report.missing or report.unexpected)
    ):
        key = next((k for k in odd if "fc_cls" in k or "conv_logits" in k or "cls" in k), odd[0])
        found, wanted = (shape[0] for shape in report.mismatched[key])
        extra = 1 if "fc_cls" in key else 0
        return (
            f"another number of classes: the file's {key} has {found - extra}, the model's {wanted - extra}. "
            "Use the config the file was trained with, or set num_classes of the heads."
        )
    differing = [*report.missing, *report.unexpected, *odd]
    backbone = [k for k in differing if k.startswith("backbone.")]
    if not report.matched:
        return "the file belongs to another model altogether, or its keys carry an unknown prefix."
    if backbone and len(backbone) * 2 >= len(differing):
        return "another backbone (depth or type): use the config the file was trained with."
    if any("mask_head" in k for k in differing) and all("mask" in k for k in differing):
        return "one of the two has a mask head and the other has none: Mask R-CNN against Faster R-CNN."
    return "the config describes another model than the file's: use the config the file was trained with."


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
        shapes = [
            f"{k} {list(a)} in the file, {list(b)} in the model" for k, (a, b) in report.mismatched.items()
        ]
        lists = [
            _listed("missing in the file", report.missing) if report.missing else "",
            _listed("not in the model", report.unexpected) if report.unexpected else "",
            _listed("of another shape", shapes) if shapes else "",
        ]
        raise CheckpointError(
            f"{where}: does not fit the model. Likely cause: {likely_cause(report)} "
            + "; ".join(t for t in lists if t)
            + "."
        )
    with torch.no_grad():
        model.load_state_dict(fits, strict=False)
    return report
