"""Whether the operations that run are being written down instead of only computed."""

from __future__ import annotations

from typing import Any, cast

import torch


def is_recorded() -> bool:
    """Whether a tracer or compiler follows.

    It writes down what happens with this one image, so what depends on the number of boxes must not be
    decided in python; and it should meet operators that exporters know.
    """
    return bool(cast(Any, torch.jit).is_tracing()) or torch.compiler.is_compiling()
