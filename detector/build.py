"""From a config dict to a model: children first, keyword constructors, no knowledge of any model.

What a dict becomes is decided by the receiving parameter's annotation: a ``Spec`` subclass becomes that
spec; any other dict with a
``type`` is looked up in the catalog and called with its built children; a dict without one stays data.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from detector.config.mmdet_v2 import normalise_model, written_path
from detector.errors import ConfigError
from detector.models.catalog import CATALOG
from detector.naming import close_names
from detector.structures.specs import Spec


@dataclass(frozen=True)
class Signature:
    """Keyword parameters of a constructor: accepted names, required names and annotations."""

    accepted: tuple[str, ...]
    required: frozenset[str]
    annotations: Mapping[str, Any]


@cache
def signature(target: type) -> Signature:
    """Parameters of ``target``'s constructor; those behind ``**kwargs`` are taken from its bases."""
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    # fields inherited from a spec of another module are annotated in that module's names
    fields = typing.get_type_hints(target) if dataclasses.is_dataclass(target) else {}
    for base in target.__mro__:
        init = base.__dict__.get("__init__")
        if init is None:
            continue
        own = inspect.signature(init).parameters
        for name, parameter in list(own.items())[1:]:
            if (
                parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
                and name not in parameters
            ):
                parameters[name] = parameter
                hints[name] = (fields or typing.get_type_hints(init)).get(name, Any)
        if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            break
    required = frozenset(n for n, p in parameters.items() if p.default is p.empty)
    return Signature(accepted=tuple(parameters), required=required, annotations=hints)


def _did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    near = close_names(name, known)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def _check_arguments(path: str, target: type, given: Mapping[str, Any]) -> None:
    found = signature(target)
    accepted = ", ".join(found.accepted) or "no arguments"
    for name in given:
        if name not in found.accepted:
            hint = _did_you_mean(name, found.accepted)
            raise ConfigError(
                f"{path}: {target.__name__} got an unexpected {name!r}; accepted: {accepted}.{hint}"
            )
    missing = sorted(found.required - set(given))
    if missing:
        raise ConfigError(
            f"{path}: {target.__name__} needs {', '.join(map(repr, missing))}; accepted: {accepted}."
        )


def _flat(annotation: Any) -> Iterator[Any]:
    """The alternatives and item types of an annotation."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, tuple):
        for part in typing.get_args(annotation):
            yield from _flat(part)
    else:
        yield annotation


def _spec_class(annotation: Any) -> type[Spec] | None:
    """The spec an annotation asks for, if any."""
    return next((a for a in _flat(annotation) if isinstance(a, type) and issubclass(a, Spec)), None)


def _call(path: str, target: type, arguments: dict[str, Any]) -> Any:
    try:
        return target(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"{path}: {target.__name__} could not be built from {sorted(arguments)}: {error}. "
            "Check the values of these settings."
        ) from error


class Builder:
    """Builds nodes of a normalised config; ``extra`` types come before the catalog's."""

    def __init__(self, extra: Mapping[str, type] | None = None) -> None:
        """``extra`` adds or replaces types for this builder only."""
        self.types: dict[str, type] = {**CATALOG, **(extra or {})}

    def build(self, value: Any, path: str, annotation: Any = Any) -> Any:
        """Build ``value``, found at config path ``path``, for a parameter annotated with ``annotation``."""
        path = written_path(path)
        if isinstance(value, (list, tuple)):
            return type(value)(self.build(item, f"{path}[{i}]", annotation) for i, item in enumerate(value))
        if not isinstance(value, Mapping):
            return value
        spec = _spec_class(annotation)
        if spec is not None:
            return self._construct(spec, dict(value), path)
        if "type" not in value:
            return dict(value)
        arguments = dict(value)
        return self._construct(self._lookup(arguments.pop("type"), path), arguments, path)

    def _construct(self, target: type, arguments: dict[str, Any], path: str) -> Any:
        _check_arguments(path, target, arguments)
        hints = signature(target).annotations
        return _call(path, target, {k: self.build(v, f"{path}.{k}", hints[k]) for k, v in arguments.items()})

    def _lookup(self, name: Any, path: str) -> type:
        if isinstance(name, type):
            return name
        if name not in self.types:
            hint = _did_you_mean(str(name), self.types)
            raise ConfigError(
                f"{path}.type: unknown {name!r}; expected one of the {len(self.types)} types of "
                f"detector/models/catalog.py.{hint} "
                "A new type is added there, or given as extra={name: class}."
            )
        return self.types[name]


def build_model(
    model_cfg: Mapping[str, Any],
    *,
    training: bool,
    extra: Mapping[str, type] | None = None,
    train_cfg: Mapping[str, Any] | None = None,
    test_cfg: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a detector from the ``model`` section of a config, as the file holds it.

    Args:
        model_cfg: the section; not modified.
        training: whether the model must compute losses; False ignores the training settings.
        extra: types beside the catalog.
        train_cfg: top-level training settings of older configs.
        test_cfg: top-level test settings of older configs.

    Returns:
        the model in train mode with torch's default values; call ``init_weights`` or load a checkpoint.

    Raises:
        ConfigError: unknown type, unknown or missing argument, or a value that does not fit, with its
            config path.
    """
    node = normalise_model(model_cfg, training=training, train_cfg=train_cfg, test_cfg=test_cfg)
    model = Builder(extra).build(node, "model")
    assert isinstance(model, nn.Module)
    return model
