"""Object detection that reads MMDetection v2 configs and checkpoints.

The public names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.config import Config, load_config
    from detector.inference import (
        async_inference_detector,
        concurrent,
        inference_detector,
        init_detector,
    )

__version__ = "0.1.0"

_HOMES = {
    "Config": "detector.config",
    "async_inference_detector": "detector.inference.concurrency",
    "concurrent": "detector.inference.concurrency",
    "inference_detector": "detector.inference.prediction",
    "init_detector": "detector.inference.model",
    "load_config": "detector.config",
}

__all__ = [
    "Config",
    "__version__",
    "async_inference_detector",
    "concurrent",
    "inference_detector",
    "init_detector",
    "load_config",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'detector' has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
