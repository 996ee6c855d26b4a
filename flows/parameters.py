"""The parameters of all flows: one type each, with its limits, choices, examples and description.

Prefect makes the form of a deployment from them and refuses a run that does not fit, before it starts; the
command line of a flow takes its options and checks from them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

NOTHING = {"type": "null"}

StepName = Literal["prepare", "convert", "train", "evaluate", "format"]


@dataclass(frozen=True)
class Shown:
    """What a form and a help text say about a parameter.

    Prefect drops the description of a pydantic field for that of the flow's docstring, so it is part of the
    type's own schema. The form shows neither limits nor examples, so the description ends with them. Of a
    value that may be left out the server says only that no alternative fits, unless it knows which is meant.
    """

    text: str
    examples: tuple[str, ...] = ()

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The type's schema with the description."""
        found: dict[str, Any] = dict(handler(schema))
        meant = next((choice for choice in found.get("anyOf", []) if choice != NOTHING), None)
        if meant is not None:
            found.update({"if": NOTHING, "else": {"type": meant["type"]}})
        text = self.text + _limits({**found, **(meant or {})}) + _such_as(self.examples)
        shown = {"examples": list(self.examples)} if self.examples else {}
        return {**found, **shown, "description": text}


def _limits(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None:
        return ""
    return f" From {low} on." if high is None else f" From {low} to {high}."


def _such_as(examples: Sequence[str]) -> str:
    if not examples:
        return ""
    return f" Such as {' or '.join([', '.join(examples[:-1]), examples[-1]] if examples[1:] else examples)}."


Config = Annotated[
    str,
    Field(min_length=1),
    Shown(
        "A family, a config's full name, or the path of a config file.",
        ("mask_rcnn", "faster_rcnn", "mask_rcnn_r50_fpn_1x_coco"),
    ),
]
Configs = Annotated[
    list[Config],
    Field(min_length=1),
    Shown("Families, full names or paths of configs: each is trained with every seed and every variant."),
]
Dataset = Annotated[
    str,
    Field(min_length=1),
    Shown(
        "The data for a family's name; a full config brings its own.",
        ("sample", "coco", "cityscapes", "voc", "lvis_v1"),
    ),
]
DataName = Annotated[
    str,
    Field(min_length=1),
    Shown("Name of the data set.", ("sample", "coco", "cityscapes", "voc", "lvis_v1")),
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), Shown("Seed of everything random in the training.")]
Seeds = Annotated[list[Seed], Field(min_length=1), Shown("Seeds: each is a training of its own.")]
Variants = Annotated[
    list[str],
    Shown(
        "Overrides of the configs, one training for each entry: key=value as after --cfg-options, several "
        "with spaces between; an empty entry is the config as it is.",
        ("optimizer.lr=0.01 optimizer.weight_decay=0",),
    ),
]
AS_THEY_ARE: list[str] = []
Epochs = Annotated[
    int | None,
    Field(ge=1),
    Shown("Epochs in place of the config's schedule; left out means as in the config."),
]
ScoreThreshold = Annotated[
    float | None,
    Field(ge=0, le=1),
    Shown("Detections with a lower score are not evaluated or submitted; left out means as in the config."),
]
Device = Annotated[
    str | None,
    Field(pattern=r"^(cpu|cuda(:\d+)?)$"),
    Shown(
        "Where to compute; left out takes the first free GPU, without any GPU the CPU.",
        ("cpu", "cuda", "cuda:1"),
    ),
]
Processes = Annotated[int, Field(ge=1, le=1024), Shown("Training processes, one per GPU.")]
Store = Annotated[
    str | None,
    Field(min_length=1),
    Shown(
        "Folder for downloads; left out means $DETECTOR_DATASETS, otherwise .datasets in this folder.",
        ("/data/datasets",),
    ),
]
TaskRunner = Annotated[
    Literal["processes", "dask"] | None,
    Shown(
        "Who converts: processes of this machine, or a Dask cluster (DETECTOR_DASK: its address, or local); "
        "left out takes the cluster where DETECTOR_DASK is set."
    ),
]
Refresh = Annotated[list[StepName], Shown("Steps that run although they are done.")]
NO_STEPS: list[StepName] = []  # a default that the form shows as a list to choose from; nobody changes it
AtOnce = Annotated[
    int | None,
    Field(ge=1),
    Shown("Trainings at a time; left out means one for every free place: GPU, or DETECTOR_CPU_SLOTS."),
]
Names = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1),
    Shown(
        "Published models: names, patterns with * and ?, or families.",
        ("mask_rcnn_r50_fpn_1x_coco", "mask_rcnn_r50_*", "yolox"),
    ),
]
Tolerance = Annotated[
    float,
    Field(ge=0, le=100),
    Shown("Difference from the reported AP, in points, above which the run fails."),
]
Again = Annotated[bool, Shown("Test although it is done.")]
