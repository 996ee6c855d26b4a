"""Reading, merging and rewriting configs as data; nothing of a config is ever executed.

Building models from them is detector.build's. May import the standard library and yaml; never torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detector.config.load import Config, config_from_text, load_config
from detector.config.origin import Origin
from detector.config.overrides import parse_options
from detector.config.resolve import resolve_config
from detector.config.run_settings import replace_image_to_tensor

if TYPE_CHECKING:
    from detector.config.mmdet_v2 import normalise_model

__all__ = [
    "Config",
    "Origin",
    "config_from_text",
    "load_config",
    "normalise_model",
    "parse_options",
    "replace_image_to_tensor",
    "resolve_config",
]


def __getattr__(name: str) -> Any:
    """Import the model part's rewriting only when it is used; printing configs needs none of it."""
    if name == "normalise_model":
        from detector.config.mmdet_v2 import normalise_model

        return normalise_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
