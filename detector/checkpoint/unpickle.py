"""An unpickler that runs nothing.

Only the names of an allow-list resolve to something real; every other name becomes an inert placeholder
class that swallows its
arguments, so that foreign objects in a file's meta cost nothing but their value.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.errors import CheckpointError
from detector.structures.sealed import Sealed, SealedType

StorageLoader = Callable[[tuple[Any, ...]], "LazyStorage"]


class LazyStorage:
    """Bytes of one storage: filled at once (zip) or after the pickle (legacy); tensors share it."""

    def __init__(self, dtype: torch.dtype, numel: int) -> None:
        """``numel`` elements of ``dtype``, not yet read."""
        self.dtype, self.numel = dtype, numel
        nbytes = numel * torch.empty((), dtype=dtype).element_size()
        self.untyped = torch.UntypedStorage(nbytes)  # type: ignore[no-untyped-call]

    def __setstate__(self, _: Any) -> None:
        """Refuse: the element count guards the bounds of tensors.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError("a change to a storage in the file.")


class Foreign(metaclass=SealedType):
    """Stand-in for an object whose class is not on the allow-list; holds nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Foreign:
        """Accept and drop any arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Accept and drop any arguments."""

    def __setstate__(self, _: Any) -> None:
        """Drop the state."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Drop an item."""

    def append(self, _: Any) -> None:
        """Drop an item."""

    def extend(self, _: Any) -> None:
        """Drop items."""

    def add(self, _: Any) -> None:
        """Drop an item."""

    def __call__(self, *_: Any, **__: Any) -> Foreign:
        """Calling an instance gives another inert one."""
        return Foreign()

    def __repr__(self) -> str:
        """Name of the class that was not loaded."""
        return f"<{type(self).__name__}, not loaded>"


class NumpyValue:
    """A numpy scalar or array on its way through the pickle; ``unwrap`` gives the value."""

    def __init__(self, value: Any = None) -> None:
        """Hold a value; arrays receive theirs through ``__setstate__``."""
        self.value = value

    def __setstate__(self, state: Any) -> None:
        """Array state: (version, shape, dtype, fortran order, raw bytes)."""
        _, shape, dtype, fortran, raw = state
        if not isinstance(raw, bytes) or not isinstance(dtype, NumpyDtype):
            self.value = Foreign()
            return
        order = "F" if fortran else "C"
        self.value = np.frombuffer(raw, dtype=dtype.dtype).reshape(tuple(shape), order=order).copy()  # type: ignore[call-overload]


class NumpyDtype:
    """A plain numpy dtype given by a short code such as 'f8'; object dtypes are refused."""

    def __init__(self, code: Any = "f8", *_: Any) -> None:
        """Resolve ``code``."""
        if not isinstance(code, str) or code[:1] in ("O", "V"):
            raise CheckpointError(f"numpy dtype {code!r} in the file; expected a plain number type.")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Apply the byte order of the pickled state."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _numpy_scalar(dtype: Any, raw: Any = b"") -> Any:
    if not isinstance(dtype, NumpyDtype) or not isinstance(raw, bytes):
        return Foreign()
    return np.frombuffer(raw, dtype=dtype.dtype, count=1)[0]


def _numpy_array(*_: Any) -> NumpyValue:
    return NumpyValue()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "ascii", "utf-8"):
        raise CheckpointError("bytes of an unknown encoding in the file.")
    return text.encode(encoding)


def rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_: Any
) -> Tensor:
    """Tensor on a storage of this file; refuses views that leave the storage."""
    if not isinstance(storage, LazyStorage):
        raise CheckpointError("a tensor without storage in the file.")
    size, stride, offset = tuple(map(int, size)), tuple(map(int, stride)), int(offset)
    if len(size) != len(stride) or offset < 0 or any(n < 0 for n in (*size, *stride)):
        raise CheckpointError(f"a tensor of size {size} and stride {stride} in the file.")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if all(size) and last >= storage.numel:
        raise CheckpointError(
            f"a tensor of size {size} reaches past the {storage.numel} elements of its storage."
        )
    tensor = torch.empty(0, dtype=storage.dtype)
    return tensor.set_(storage.untyped, offset, size, stride).requires_grad_(
        bool(requires_grad) and storage.dtype.is_floating_point
    )  # type: ignore[call-overload]


def _rebuild_parameter(data: Any, requires_grad: Any = True, *_: Any) -> Any:
    if not isinstance(data, Tensor):
        raise CheckpointError("a parameter without a tensor in the file.")
    return torch.nn.Parameter(data.detach(), requires_grad=bool(requires_grad) and data.is_floating_point())


def _rebuild_from_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """A tensor that carried attributes of its own, without them."""
    if not isinstance(function, Sealed) or not isinstance(arguments, tuple):
        raise CheckpointError("a tensor of an unknown kind in the file.")
    return function(*arguments)


def _path(*parts: Any) -> str:
    return str(PurePath(*map(str, parts)))


DTYPES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_TORCH_DTYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)

# Only values that a pickle cannot change: sealed ones, and built-in types, whose attributes are read-only.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("collections", "Counter"): Sealed(Counter),
    ("collections", "deque"): deque,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "tuple"): tuple,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    ("builtins", "complex"): complex,
    ("builtins", "bytearray"): bytearray,
    ("__builtin__", "set"): set,
    ("__builtin__", "dict"): dict,
    ("_codecs", "encode"): Sealed(_encode),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): Sealed(lambda *parts: str(parts[0]) if parts else "cpu"),
    ("torch._utils", "_rebuild_tensor"): Sealed(rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Sealed(rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Sealed(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Sealed(_rebuild_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Sealed(_rebuild_from_type),
    ("numpy", "dtype"): Sealed(NumpyDtype),
    ("numpy", "ndarray"): Sealed(Foreign),
    ("numpy.core.multiarray", "scalar"): Sealed(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): Sealed(_numpy_scalar),
    ("numpy.core.multiarray", "_reconstruct"): Sealed(_numpy_array),
    ("numpy._core.multiarray", "_reconstruct"): Sealed(_numpy_array),
    ("pathlib", "PosixPath"): Sealed(_path),
    ("pathlib", "WindowsPath"): Sealed(_path),
    ("pathlib", "PurePosixPath"): Sealed(_path),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    **{("torch.storage", name): dtype for name, dtype in DTYPES.items()},
    **{("torch", name): getattr(torch, name) for name in _TORCH_DTYPES},
}


class SafeUnpickler(pickle.Unpickler):
    """Unpickler over the allow-list; ``load_storage`` turns a persistent id into a storage."""

    def __init__(
        self, stream: io.BufferedIOBase | io.BytesIO, load_storage: StorageLoader | None = None
    ) -> None:
        """Read one pickle from ``stream``."""
        super().__init__(stream, encoding="utf-8")
        self._load_storage = load_storage
        self.foreign: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """The allowed object, or a fresh placeholder class."""
        if (module, name) in ALLOWED:
            return ALLOWED[(module, name)]
        self.foreign.add(f"{module}.{name}")
        return SealedType(f"{module}.{name}", (Foreign,), {})

    def persistent_load(self, pid: Any) -> Any:
        """The storage behind a persistent id."""
        if self._load_storage is None or not isinstance(pid, tuple):
            raise CheckpointError("a reference to data outside the file.")
        return self._load_storage(pid)


def unwrap(value: Any) -> Any:
    """Replace numpy carriers inside dicts, lists and tuples by their values; dicts are changed in place."""
    if isinstance(value, NumpyValue):
        return value.value
    if isinstance(value, dict):
        for key in list(value):
            value[key] = unwrap(value[key])
        return value
    if isinstance(value, list):
        value[:] = [unwrap(item) for item in value]
        return value
    if type(value) is tuple:
        return tuple(unwrap(item) for item in value)
    return value


def foreign_names(unpicklers: Iterable[SafeUnpickler]) -> tuple[str, ...]:
    """Names that became placeholders, sorted."""
    return tuple(sorted(set().union(*(u.foreign for u in unpicklers))))
