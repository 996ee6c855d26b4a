"""What the built-in data set is made from: a seed, the number of images per split and their size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from detector.errors import DatasetError

SPLITS = ("train", "val", "test")
# Raised whenever the same recipe would draw other pixels, so that stored data is made again.
DRAWING_VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of a synthetic data set.

    Attributes:
        seed: start of every random stream; scene i of a split depends on (seed, split, i) alone.
        train, val, test: number of images of each split (0 leaves the split out).
        height, width: size of every image in pixels; objects scale with the height.
    """

    seed: int = 0
    train: int = 600
    val: int = 120
    test: int = 60
    height: int = 192
    width: int = 384

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be drawn."""
        for item in fields(self):
            value = getattr(self, item.name)
            least = 64 if item.name in ("height", "width") else 0
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise DatasetError(
                    f"recipe of the synthetic data: {item.name} = {value!r}, expected a whole number "
                    f">= {least}. Change {item.name} in the recipe."
                )

    def count(self, split: str) -> int:
        """Number of images of a split."""
        return int(getattr(self, split))

    def as_dict(self) -> dict[str, int]:
        """Plain form, with the version of the drawing code."""
        return {**asdict(self), "drawing_version": DRAWING_VERSION}

    def digest(self) -> str:
        """Sha256 that changes whenever the pixels would."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Recipe from a mapping such as a source file's ``recipe`` section; unknown names are errors."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise DatasetError(
                f"recipe of the synthetic data: unknown {unknown}, expected some of {sorted(known)}. "
                "Remove or rename it."
            )
        return cls(**values)
