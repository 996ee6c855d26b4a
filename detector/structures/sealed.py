"""What a pickle may call and never change.

A pickle can set attributes of any object that it reaches (the BUILD opcode), also of a class or function that
it only names. Those are the process's own, so a restricted unpickler hands out sealed ones.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NoReturn


def _refuse(what: str) -> NoReturn:
    raise pickle.UnpicklingError(f"it changes {what}, which a file may only use")


class SealedType(type):
    """Metaclass of classes whose attributes cannot be set or deleted."""

    def __setattr__(cls, name: str, _: Any) -> None:
        """Refuse.

        Raises:
            UnpicklingError: always.
        """
        _refuse(f"{cls.__name__}.{name}")

    def __delattr__(cls, name: str) -> None:
        """Refuse.

        Raises:
            UnpicklingError: always.
        """
        _refuse(f"{cls.__name__}.{name}")


class Sealed(metaclass=SealedType):
    """A callable that can be called, and nothing else.

    Args:
        target: what a call reaches.
    """

    __slots__ = ("_target",)

    def __init__(self, target: Callable[..., Any]) -> None:
        object.__setattr__(self, "_target", target)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the target."""
        return self._target(*arguments, **named)  # type: ignore[attr-defined]

    def __setattr__(self, name: str, _: Any) -> None:
        """Refuse.

        Raises:
            UnpicklingError: always.
        """
        _refuse(name)

    def __setstate__(self, _: Any) -> None:
        """Refuse.

        Raises:
            UnpicklingError: always.
        """
        _refuse("a function or class")
