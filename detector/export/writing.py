"""Writing the formats.

Both writers record one pass over an example (``torch.jit.trace``, and torch's exporter that builds on it).
The exporter that follows python instead, ``dynamo=True``, was not tried on these models.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from detector.errors import ConfigError, MachineError
from detector.export.network import OUTPUTS
from detector.whole_files import replacing

PACKAGES = ("onnx", "onnxruntime")
OPSET = 17


def require_packages(form: str) -> None:
    """Raise MachineError when a format needs packages that are not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if form == "onnx" and missing:
        raise MachineError(
            f"--format onnx: found no {' and no '.join(missing)}; expected both {' and '.join(PACKAGES)}, "
            "the first to write the file and the second to check it. Install them with this project's extra "
            f"(`uv sync --extra export`), or `pip install {' '.join(PACKAGES)}`."
        )


def write_torchscript(network: nn.Module, example: Tensor, path: Path, notes: Mapping[str, Any]) -> None:
    """Write a TorchScript file, which needs ``import torchvision`` before it is loaded.

    Args:
        network: of tensors to tensors, in eval mode.
        example: its input.
        path: file that appears whole.
        notes: kept as JSON in its extra file ``notes.json``.

    Raises:
        ConfigError: the tracer cannot follow.
    """
    with _quiet(), _told("torch.jit.trace"), torch.no_grad():
        # a function, as of a module the tracer reads every property, some of which are there in training only
        traced = cast(Any, torch.jit).trace(lambda images: network(images), (example,), check_trace=False)
        extra = {"notes.json": json.dumps(notes)}
        content = traced.save_to_buffer(_extra_files=extra)
    with replacing(path) as stream:
        stream.write(content)


def write_onnx(network: nn.Module, example: Tensor, path: Path, notes: Mapping[str, Any]) -> None:
    """Write an ONNX file with input 'images' and outputs 'boxes', 'scores' and 'labels' of N rows.

    Args:
        network: of tensors to tensors, in eval mode.
        example: its input.
        path: file that appears whole.
        notes: kept as metadata properties.

    Raises:
        ConfigError: the exporter knows no operator for something.
    """
    onnx = importlib.import_module("onnx")
    buffer = io.BytesIO()
    with _quiet(), _told("torch's ONNX exporter"), _stable_sorting(), torch.no_grad():
        torch.onnx.export(
            network,
            (example,),
            buffer,  # type: ignore[arg-type]  # takes streams, too
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "detections"} for name in OUTPUTS},
        )
    document = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(document, {key: json.dumps(value) for key, value in notes.items()})
    with replacing(path) as stream:
        stream.write(document.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that both exporters are old, and that a trace fixes what python decides.

    Of a failure torch's C++ code also prints the whole graph, so the file descriptor is turned away.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    with warnings.catch_warnings(), Path(os.devnull).open("wb") as nowhere:
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            ctypes.CDLL(None).fflush(None)
            os.dup2(kept, 1)
            os.close(kept)


@contextlib.contextmanager
def _told(who: str) -> Iterator[None]:
    """An exporter's own error as one of ours.

    Raises:
        ConfigError: saying what the exporter said, in its first line.
    """
    try:
        yield
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"export: {who} stopped at '{first.strip()}'; expected operators that it knows. Try the other "
            "--format, or leave out the part that this comes from."
        ) from error


@contextlib.contextmanager
def _stable_sorting() -> Iterator[None]:
    """Let the exporter take sorts that keep the order of equals: ONNX' TopK does."""
    exporter = cast(Any, torch.onnx)
    names = ("aten::sort", "aten::argsort")
    exporter.register_custom_op_symbolic(names[0], _sort, OPSET)
    exporter.register_custom_op_symbolic(names[1], lambda *args: _sort(*args)[1], OPSET)
    try:
        yield
    finally:
        for name in names:
            exporter.unregister_custom_op_symbolic(name, OPSET)


def _sort(graph: Any, values: Any, *settings: Any) -> Any:
    """ONNX nodes of a sort; ``settings`` are perhaps stable, then dim and descending."""
    symbols: Any = importlib.import_module("torch.onnx.symbolic_helper")
    dim, descending = settings[-2:]
    axis = symbols._get_const(dim, "i", "dim")
    falling = bool(symbols._get_const(descending, "i", "descending"))
    rank = symbols._get_tensor_rank(values)
    count = graph.op("Gather", graph.op("Shape", values), _constant(graph, [axis % rank]))
    return graph.op("TopK", values, count, axis_i=axis, largest_i=int(falling), outputs=2)


def _constant(graph: Any, values: list[int]) -> Any:
    return graph.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))
