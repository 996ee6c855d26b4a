"""Pickles of arrays of numbers: read without running anything that they name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.structures.sealed import Sealed


class ResultPickler(pickle.Pickler):
    """Stores arrays as ``numpy.ndarray(shape, dtype, bytearray)``."""

    def reducer_override(self, obj: Any) -> Any:
        """The call that rebuilds an array; everything else as usual."""
        if type(obj) is np.ndarray and obj.dtype.kind in "biuf":
            data = np.ascontiguousarray(obj)
            return np.ndarray, (data.shape, data.dtype.str, bytearray(data.tobytes()))
        return NotImplemented


class _Dtype:
    """Stands for a numpy dtype while unpickling."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = str(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order of the stored dtype."""
        self.code = str(state[1]).replace("|", "") + self.code

    def plain(self) -> np.dtype[Any]:
        """The dtype, if it is a number."""
        dtype = np.dtype(self.code)
        if dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"array of {dtype}")
        return dtype


class _Array:
    """Stands for a numpy array while unpickling, so that no stored value reaches NumPy's own loaders."""

    def __init__(self, shape: Any = (0,), dtype: Any = "f4", buffer: Any = b"") -> None:
        code = dtype.plain() if isinstance(dtype, _Dtype) else _Dtype(dtype).plain()
        self.value: NDArray[Any] = np.frombuffer(bytearray(buffer), code).reshape(shape)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Content as ``numpy.ndarray.__reduce__`` stores it: version, shape, dtype, column-major, bytes."""
        _, shape, dtype, column_major, data = state
        flat = np.frombuffer(bytearray(data), dtype.plain())
        self.value = flat.reshape(shape, order="F" if column_major else "C")


def _rebuild(*_: Any) -> _Array:
    """In place of ``numpy.core.multiarray._reconstruct``."""
    return _Array()


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: str) -> _Array:
    """In place of ``numpy.core.numeric._frombuffer`` (protocol 5)."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(buffer)))
    return array


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """In place of ``numpy.core.multiarray.scalar``."""
    return np.frombuffer(data, dtype.plain())[0].item()


def _bytes(data: bytes = b"") -> bytes:
    """In place of ``bytes`` and ``bytearray``, which would also allocate any size."""
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError(f"bytes made from {type(data).__name__}")
    return data


def _text_to_bytes(text: str, encoding: str) -> bytes:
    """In place of ``_codecs.encode``, with which old protocols store bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes stored as {encoding}")
    return text.encode("latin1")


class ResultUnpickler(pickle.Unpickler):
    """Knows arrays of numbers and nothing else."""

    _KNOWN: dict[str, Callable[..., Any]] = {  # noqa: RUF012 - a literal table; sealed when handed out
        "numpy.ndarray": _Array,
        "numpy.dtype": _Dtype,
        "multiarray._reconstruct": _rebuild,
        "multiarray.scalar": _scalar,
        "numeric._frombuffer": _from_buffer,
        "builtins.bytearray": _bytes,
        "__builtin__.bytearray": _bytes,
        "__builtin__.bytes": _bytes,
        "_codecs.encode": _text_to_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a stored name."""
        short = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        found = self._KNOWN.get(f"{short}.{name}")
        if found is None:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, only plain values and NumPy arrays are read"
            )
        return Sealed(found)


def unwrap(value: Any) -> Any:
    """Stand-ins replaced by their arrays, through lists, tuples and dicts."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, list):
        return [unwrap(item) for item in value]
    if isinstance(value, tuple):
        return tuple(unwrap(item) for item in value)
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return value
