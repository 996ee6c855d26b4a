"""Use a detector from python: build it, run it on images and videos, draw what it found.

Here belong the public calls and the demos behind the commands; the model, its data pipeline and the drawing
lie elsewhere. May import everything of the library but the command line. The names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.inference.concurrency import async_inference_detector, concurrent
    from detector.inference.dataset_drawings import draw_results, drawing_paths
    from detector.inference.model import init_detector
    from detector.inference.prediction import MAX_BATCH, detect, inference_detector, predict, test_pipeline
    from detector.inference.showing import show_result
    from detector.inference.sources import Frame, open_source

_HOMES = {
    "Frame": "detector.inference.sources",
    "MAX_BATCH": "detector.inference.prediction",
    "async_inference_detector": "detector.inference.concurrency",
    "concurrent": "detector.inference.concurrency",
    "detect": "detector.inference.prediction",
    "draw_results": "detector.inference.dataset_drawings",
    "drawing_paths": "detector.inference.dataset_drawings",
    "inference_detector": "detector.inference.prediction",
    "init_detector": "detector.inference.model",
    "open_source": "detector.inference.sources",
    "predict": "detector.inference.prediction",
    "show_result": "detector.inference.showing",
    "test_pipeline": "detector.inference.prediction",
}

__all__ = [
    "MAX_BATCH",
    "Frame",
    "async_inference_detector",
    "concurrent",
    "detect",
    "draw_results",
    "drawing_paths",
    "inference_detector",
    "init_detector",
    "open_source",
    "predict",
    "show_result",
    "test_pipeline",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(
            f"module 'detector.inference' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
