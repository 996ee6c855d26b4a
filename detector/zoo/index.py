"""What MMDetection 2.x published: name, family, config, weights, reported numbers, and whether it runs here.

``index.json`` holds one line per model. It was derived once from a survey of MMDetection 2.28.2: the entries
of the families' metafiles and the tables of their READMEs, and, as ``blocks``, the types that the model and
its training targets are built of, taken from the loaded configs and the instantiated models. Whether a model
is supported is computed: all its blocks are here. No torch is imported for that.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from detector.errors import ConfigError
from detector.naming import close_names

INDEX = Path(__file__).with_name("index.json")
CATALOG = "detector.models.catalog"

#: Blocks that a config names, or that are built unnamed, and that are no entry of the catalog here, because
#: they come with a part that is: a convolution or norm by name (layers/), an operation (ops/), the inner
#: layers of a head's own transformer. The part itself stands in ``blocks`` too, so they decide nothing.
BUILT_INSIDE = frozenset(
    {
        *("ConvWS", "ConvAWS", "DCN", "DCNv2", "SAC", "NormedLinear", "NormedConv2d", "SyncBN", "MMSyncBN"),
        *("BboxOverlaps2D", "RoIAlign", "SimpleRoIAlign", "soft_nms", "carafe"),
        *("LN2d", "Conv2dAdaptivePadding", "SinePositionalEncoding", "MultiheadAttention"),
        *("MultiScaleDeformableAttention", "FFN", "BaseTransformerLayer", "DetrTransformerDecoderLayer"),
        *("DetrTransformerEncoder", "DetrTransformerDecoder", "DeformableDetrTransformerDecoder"),
        *("DeformableDetrTransformer", "Transformer", "DynamicConv", "MSDeformAttnPixelDecoder"),
        *("TransformerEncoderPixelDecoder", "PixelDecoder", "BBoxL1Cost", "ClassificationCost"),
        *("CrossEntropyLossCost", "DiceCost", "FocalLossCost", "IoUCost"),
    }
)

#: Models that names do not decide: config -> why it cannot be built.
BROKEN = {
    "objects365/retinanet_r50_fpn_syncbn_1350k_obj365v1.py": "its published config does not build: a Faster "
    "R-CNN base with a RetinaNet head",
}


@dataclass(frozen=True)
class ZooModel:
    """One published model.

    Attributes:
        name: as published; of the config, without its ending, but for a few.
        family: folder of the config.
        config: path below the reference's ``configs``.
        weights: web address of the checkpoint.
        sha: first eight digits of its sha256, None where the publisher gave none.
        parameters: how many the model has.
        dataset: what it was measured on.
        metrics: as reported, in percent: 'box AP', 'mask AP', 'PQ', 'AR@1000'.
        blocks: types that the model and its training targets are built of.
    """

    name: str
    family: str
    config: str
    weights: str
    sha: str | None
    parameters: int
    dataset: str
    metrics: Mapping[str, float]
    blocks: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of the checkpoint file."""
        return self.weights.rsplit("/", 1)[-1]

    @property
    def lacking(self) -> tuple[str, ...]:
        """What keeps the model from running here, by name; empty for a supported one."""
        if self.config in BROKEN:
            return (BROKEN[self.config],)
        known = catalog_names()
        return tuple(name for name in self.blocks if name not in known and name not in BUILT_INSIDE)

    @property
    def supported(self) -> bool:
        """Whether this library builds the model from its config and loads its weights."""
        return not self.lacking

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for json."""
        own = {key: value for key, value in vars(self).items() if key != "blocks"}
        return {**own, "supported": self.supported, "lacking": list(self.lacking)}


@cache
def models() -> dict[str, ZooModel]:
    """Every published model by name, sorted by family and name."""
    entries = json.loads(INDEX.read_text(encoding="utf-8"))
    return {entry["name"]: ZooModel(**{**entry, "blocks": tuple(entry["blocks"])}) for entry in entries}


@cache
def catalog_names() -> frozenset[str]:
    """Names of the types that a config may use, read from the catalog's source (its import takes seconds).

    Raises:
        ConfigError: the catalog is no literal dict any more.
    """
    spec = importlib.util.find_spec("detector")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    path = Path(folders[0], *CATALOG.split(".")[1:]).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict):
            keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
            return frozenset(key for key in keys if isinstance(key, str))
    raise ConfigError(f"{path}: found no literal dict of types; expected CATALOG.")


def find_model(name: str) -> ZooModel:
    """The published model of a name, or of its config's name; a path and an ending are taken off.

    Raises:
        ConfigError: no such model; names the nearest ones.
    """
    known = models()
    short = name.rsplit("/", 1)[-1].removesuffix(".py")
    if short in known:
        return known[short]
    for model in known.values():
        if model.config.endswith(f"/{short}.py"):
            return model
    near = close_names(short, known)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`detector zoo list` shows all."
    raise ConfigError(
        f"zoo: found no model {name!r}, expected one of the {len(known)} published ones. {hint}"
    )


def select(*, family: str | None = None, supported: bool = False) -> list[ZooModel]:
    """Published models, of one family and supported ones only where asked.

    Raises:
        ConfigError: no such family; names the nearest ones.
    """
    families = sorted({model.family for model in models().values()})
    if family is not None and family not in families:
        near = close_names(family, families, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Use one of {', '.join(families)}."
        raise ConfigError(f"zoo: found no family {family!r}, expected one of {len(families)}. {hint}")
    return [
        model
        for model in models().values()
        if (family is None or model.family == family) and (model.supported or not supported)
    ]
