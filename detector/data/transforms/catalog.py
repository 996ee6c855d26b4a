"""MMDetection's transform names, and pipelines built from config lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detector.data.naming import construct, nearest
from detector.data.transforms.cropping import RandomCrop
from detector.data.transforms.formatting import (
    Collect,
    DefaultFormatBundle,
    ImageToTensor,
    ToDataContainer,
    ToTensor,
)
from detector.data.transforms.geometric import RandomFlip, Resize
from detector.data.transforms.loading import LoadAnnotations, LoadImageFromFile, LoadProposals
from detector.data.transforms.padding import Pad
from detector.data.transforms.photometric import Normalize
from detector.data.transforms.pipeline import Pipeline
from detector.data.transforms.sample import Transform
from detector.data.transforms.test_time import MultiScaleFlipAug
from detector.errors import ConfigError

TRANSFORMS: dict[str, type[Any]] = {
    "Collect": Collect,
    "DefaultFormatBundle": DefaultFormatBundle,
    "ImageToTensor": ImageToTensor,
    "LoadAnnotations": LoadAnnotations,
    "LoadImageFromFile": LoadImageFromFile,
    "LoadImageFromWebcam": LoadImageFromFile,  # an image already in memory
    "LoadProposals": LoadProposals,
    "MultiScaleFlipAug": MultiScaleFlipAug,
    "Normalize": Normalize,
    "Pad": Pad,
    "RandomCrop": RandomCrop,
    "RandomFlip": RandomFlip,
    "Resize": Resize,
    "ToDataContainer": ToDataContainer,
    "ToTensor": ToTensor,
}


def build_pipeline(steps: Sequence[Mapping[str, Any]], *, where: str = "pipeline") -> Pipeline:
    """Build a config's list of transforms.

    Args:
        steps: dicts with ``type`` and keyword arguments.
        where: dotted path of the list, for errors.

    Raises:
        ConfigError: an unknown type or argument, with its path, what is accepted and the nearest name.
    """
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise ConfigError(f"{where} is a {type(steps).__name__}; expected a list of dict(type=...) steps.")
    return Pipeline([build_transform(step, where=f"{where}.{i}") for i, step in enumerate(steps)])


def build_transform(step: Mapping[str, Any], *, where: str) -> Transform:
    """Build one step, its inner pipeline first."""
    if not isinstance(step, Mapping) or "type" not in step:
        raise ConfigError(
            f"{where} is {step!r}; expected a dict with a 'type', such as dict(type='Resize', ...)."
        )
    name = step["type"]
    if name not in TRANSFORMS:
        raise ConfigError(
            f"{where}.type is {name!r}, which is no transform here{nearest(str(name), TRANSFORMS)}. "
            f"Known: {', '.join(TRANSFORMS)}. Correct the name or remove the step."
        )
    arguments = {key: value for key, value in step.items() if key != "type"}
    if "transforms" in arguments:
        arguments["transforms"] = build_pipeline(arguments["transforms"], where=f"{where}.transforms")
    try:
        transform: Transform = construct(TRANSFORMS[name], arguments, where=where)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(where) else f"{where}: {message}") from error
    return transform
