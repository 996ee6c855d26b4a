"""Keys and shapes of models built from the reference's configs, against the reference's own.

``python -m tests.contract.zoo_keys [FAMILY ...] [--zoo FILE]`` prints how many configs of each family
match, and how many of the published ones. The file is the full record (``zoo_state_dicts.json.gz``: for each
config the ordered keys and shapes).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch

from detector.build import build_model
from detector.config import load_config
from detector.zoo.index import models

Shapes = dict[str, list[int]]


def built_shapes(config: Path) -> Shapes:
    """Keys and shapes of the model of a config, built without memory."""
    with torch.device("meta"):
        model = build_model(load_config(config).data["model"], training=True)
    return {key: list(value.shape) for key, value in model.state_dict().items()}


def digest(shapes: Mapping[str, Sequence[int]]) -> str:
    """First 16 digits of the sha256 over the sorted lines "key [shape]"."""
    lines = "\n".join(f"{key} {list(shape)}" for key, shape in sorted(shapes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def first_difference(found: Shapes, wanted: Mapping[str, Sequence[int]]) -> str | None:
    """What differs first, None where nothing does."""
    missing = [k for k in wanted if k not in found]
    extra = [k for k in found if k not in wanted]
    shape = [k for k in wanted if k in found and list(wanted[k]) != found[k]]
    if not (missing or extra or shape):
        return None
    text = (
        f"{len(missing)} missing {missing[:2]}, {len(extra)} extra {extra[:2]}, {len(shape)} of another shape"
    )
    return text + "".join(f" {k}: {found[k]} for {list(wanted[k])}" for k in shape[:1])


def outcome(config: Path, wanted: Mapping[str, Sequence[int]]) -> str | None:
    """What keeps a config from matching, None where nothing does."""
    try:
        return first_difference(built_shapes(config), wanted)
    except Exception as error:  # a table of many configs goes on after one that fails
        return f"{type(error).__name__}: {str(error)[:160]}"


def reference_configs() -> Path | None:
    """The reference's configs in its installed package, which is never imported."""
    import importlib.util

    spec = importlib.util.find_spec("mmdet")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / ".mim" / "configs"


def counts(title: str, *, good_of: Sequence[str], names: Sequence[str], published: Set[str]) -> str:
    """One row: how many of ``names`` match, and how many of those that are published."""
    both = f"{len(good_of):3d} of {len(names):3d}"
    return f"{title:24s} {both}, published {len(published & {*good_of})} of {len(published & {*names})}"


def main() -> int:
    """Print the table."""
    shared = os.environ.get("DETECTOR_SHARED", "../shared")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="folders of configs; all when none is given")
    parser.add_argument("--zoo", type=Path, default=Path(shared) / "reference" / "zoo_state_dicts.json.gz")
    parser.add_argument("--digests", type=Path, help="also write {config: digest} of those that match")
    arguments = parser.parse_args()
    with gzip.open(arguments.zoo) as file:
        zoo: dict[str, Any] = json.load(file)
    root = reference_configs()
    if root is None:
        print("the reference's configs come with the dev dependency mmdet")
        return 1
    by_family: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    for name in sorted(zoo):
        relative = name.removeprefix("configs/")
        family = relative.split("/")[0]
        if not arguments.families or family in arguments.families:
            by_family[family].append((relative, outcome(root / relative, zoo[name])))
    good: dict[str, str] = {}
    published = {model.config for model in models().values()}
    for family, rows in by_family.items():
        matching = [name for name, problem in rows if problem is None]
        good |= {name: digest(zoo[f"configs/{name}"]) for name in matching}
        first = next((f"   {name}: {problem}" for name, problem in rows if problem is not None), "")
        print(counts(family, good_of=matching, names=[name for name, _ in rows], published=published) + first)
    every = [name for rows in by_family.values() for name, _ in rows]
    print(counts("all", good_of=list(good), names=every, published=published))
    if arguments.digests:
        arguments.digests.write_text(json.dumps(good, indent=0, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
