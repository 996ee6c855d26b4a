"""MMDetection's transform names, and pipelines built from config lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detector.data.naming import construct, nearest
from detector.data.transforms.affine import RandomAffine
from detector.data.transforms.centre_crop import RandomCenterCropPad
from detector.data.transforms.copy_paste import CopyPaste
from detector.data.transforms.cropping import RandomCrop
from detector.data.transforms.filtering import AutoAugment, FilterAnnotations, SegRescale
from detector.data.transforms.formatting import (
    Collect,
    DefaultFormatBundle,
    ImageToTensor,
    ToDataContainer,
    ToTensor,
)
from detector.data.transforms.geometric import RandomFlip, Resize
from detector.data.transforms.iou_crop import MinIoURandomCrop
from detector.data.transforms.loading import LoadAnnotations, LoadImageFromFile, LoadProposals
from detector.data.transforms.mixing import MixUp
from detector.data.transforms.mosaic import Mosaic
from detector.data.transforms.padding import Pad
from detector.data.transforms.panoptic import LoadPanopticAnnotations
from detector.data.transforms.photometric import Normalize, PhotoMetricDistortion, YOLOXHSVRandomAug
from detector.data.transforms.pipeline import Pipeline
from detector.data.transforms.placing import CutOut, Expand, RandomShift
from detector.data.transforms.sample import Transform
from detector.data.transforms.test_time import MultiScaleFlipAug
from detector.errors import ConfigError

TRANSFORMS: dict[str, type[Any]] = {
    "AutoAugment": AutoAugment,
    "Collect": Collect,
    "CopyPaste": CopyPaste,
    "CutOut": CutOut,
    "DefaultFormatBundle": DefaultFormatBundle,
    "Expand": Expand,
    "FilterAnnotations": FilterAnnotations,
    "ImageToTensor": ImageToTensor,
    "LoadAnnotations": LoadAnnotations,
    "LoadImageFromFile": LoadImageFromFile,
    "LoadImageFromWebcam": LoadImageFromFile,  # an image already in memory
    "LoadPanopticAnnotations": LoadPanopticAnnotations,
    "LoadProposals": LoadProposals,
    "MinIoURandomCrop": MinIoURandomCrop,
    "MixUp": MixUp,
    "Mosaic": Mosaic,
    "MultiScaleFlipAug": MultiScaleFlipAug,
    "Normalize": Normalize,
    "Pad": Pad,
    "PhotoMetricDistortion": PhotoMetricDistortion,
    "RandomAffine": RandomAffine,
    "RandomCenterCropPad": RandomCenterCropPad,
    "RandomCrop": RandomCrop,
    "RandomFlip": RandomFlip,
    "RandomShift": RandomShift,
    "Resize": Resize,
    "SegRescale": SegRescale,
    "ToDataContainer": ToDataContainer,
    "ToTensor": ToTensor,
    "YOLOXHSVRandomAug": YOLOXHSVRandomAug,
}

#: MMDetection's steps that do not exist here, and what to do instead
ABSENT = {
    "Albu": "it needs the package albumentations, which is no dependency; use PhotoMetricDistortion, "
    "RandomAffine, RandomCrop and CutOut",
    "Corrupt": "it needs the package imagecorruptions, which is no dependency; write corrupted images "
    "to disk",
    "InstaBoost": "it needs the package instaboostfast, which is no dependency; use CopyPaste in a "
    "MultiImageMixDataset",
    "LoadMultiChannelImageFromFiles": "an image is one file here; join the channels into one file and use "
    "LoadImageFromFile(color_type='unchanged')",
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
    if name in ABSENT:
        raise ConfigError(f"{where}.type is {name!r}, which is not available: {ABSENT[name]}.")
    if name not in TRANSFORMS:
        raise ConfigError(
            f"{where}.type is {name!r}, which is no transform here{nearest(str(name), TRANSFORMS)}. "
            f"Known: {', '.join(TRANSFORMS)}. Correct the name or remove the step."
        )
    arguments = {key: value for key, value in step.items() if key != "type"}
    if "transforms" in arguments:
        arguments["transforms"] = build_pipeline(arguments["transforms"], where=f"{where}.transforms")
    if "policies" in arguments:
        arguments["policies"] = [
            build_pipeline(policy, where=f"{where}.policies.{i}")
            for i, policy in enumerate(arguments["policies"])
        ]
    try:
        transform: Transform = construct(TRANSFORMS[name], arguments, where=where)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(where) else f"{where}: {message}") from error
    return transform
