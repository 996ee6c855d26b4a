"""The data sets known by name, and the files that say where each comes from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from detector.data.synthetic.recipe import Recipe
from detector.errors import DatasetError
from detector.naming import close_names


@dataclass(frozen=True)
class Part:
    """A folder of a data set that the project links.

    Attributes:
        name: its name below ``data/<data set>``.
        source: its path below the data set's folder in the store.
        required: whether the data set is of use without it.
    """

    name: str
    source: str
    required: bool = True


# Converted annotations are real files in data/<name>/annotations, so no part has that name.
DATASETS: dict[str, tuple[Part, ...]] = {
    "sample": (Part("leftImg8bit", "leftImg8bit"), Part("gtFine", "gtFine")),
    "cityscapes": (Part("leftImg8bit", "leftImg8bit"), Part("gtFine", "gtFine")),
    "coco": (
        Part("train2017", "train2017", required=False),
        Part("val2017", "val2017"),
        Part("test2017", "test2017", required=False),
        Part("source_annotations", "annotations"),
    ),
    "voc": (Part("VOCdevkit", "VOCdevkit"),),
}


@dataclass(frozen=True)
class Archive:
    """One file on a server.

    Attributes:
        url: http or https.
        size: bytes, None when not known.
        checksum: '<algorithm>:<hex>', None when not known.
        into: folder below the data set's folder in which it is extracted.
    """

    url: str
    size: int | None = None
    checksum: str | None = None
    into: str = "."

    @property
    def file_name(self) -> str:
        """Last part of the address."""
        return Path(urlsplit(self.url).path).name


@dataclass(frozen=True)
class Source:
    """What a file of ``configs/sources`` says: exactly one of the three.

    Attributes:
        recipe: the data set is drawn.
        archives: it is downloaded.
        by_hand: it is placed by the user, who is told how.
    """

    dataset: str
    recipe: Recipe | None = None
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""

    def digest(self) -> str:
        """Sha256 that changes when the data would; another server for the same files is no change."""
        if self.recipe:
            return self.recipe.digest()
        files = [[a.file_name, a.size, a.checksum, a.into] for a in self.archives]
        return hashlib.sha256(json.dumps([self.dataset, files]).encode()).hexdigest()


def parts_of(name: str) -> tuple[Part, ...]:
    """Parts of a data set; an unknown name is an error with the nearest one."""
    if name in DATASETS:
        return DATASETS[name]
    close = close_names(name, DATASETS, count=1)
    hint = f"Did you mean {close[0]!r}?" if close else "Use one of them."
    raise DatasetError(
        f"data set {name!r} is not known, expected one of {', '.join(sorted(DATASETS))}. {hint}"
    )


def default_store() -> Path:
    """Where data sets are kept: ``DETECTOR_DATASETS``, else ``.datasets`` in the working folder."""
    return Path(os.environ.get("DETECTOR_DATASETS") or ".datasets").expanduser().absolute()


def source_file(name: str) -> Path:
    """The data set's source file: as kept in ``configs/sources``, else DVC's copy in ``data/sources``."""
    beside_package = Path(__file__).resolve().parents[3] / "configs" / "sources"
    for folder in (Path("configs/sources"), Path("data/sources"), beside_package):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise DatasetError(
        f"data set {name!r}: found no {name}.yaml in data/sources or configs/sources, expected one that says "
        "where the data "
        "comes from. Run the command in the project's folder, or restore the file."
    )


def load_source(name: str, path: str | Path | None = None) -> Source:
    """Read a data set's source file.

    Args:
        name: of the data set.
        path: the file, by default the project's.

    Raises:
        DatasetError: there is no such file, or it says something else than what is described in ``Source``.
    """
    import yaml

    path = Path(path) if path is not None else source_file(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: cannot be read as YAML ({error}). Restore the file.") from error
    if not isinstance(values, dict) or len({"recipe", "archives", "by_hand"} & set(values)) != 1:
        raise DatasetError(
            f"{path}: expected a mapping with one of recipe, archives, by_hand. Restore the file."
        )
    if values.get("dataset") != name:
        raise DatasetError(
            f"{path}: describes {values.get('dataset')!r}, expected {name!r}. Give the right file."
        )
    if "recipe" in values:
        return Source(name, recipe=Recipe.from_dict(values["recipe"] or {}))
    if "by_hand" in values:
        return Source(name, by_hand=str(values["by_hand"]))
    return Source(name, archives=tuple(_archive(path, entry) for entry in values["archives"]))


def _archive(path: Path, entry: Any) -> Archive:
    unknown = (
        set(entry) - {"url", "size", "md5", "sha256", "into"} if isinstance(entry, Mapping) else {repr(entry)}
    )
    if unknown or not isinstance(entry.get("url"), str):
        raise DatasetError(
            f"{path}: archive {entry!r}: expected url, and as known size, md5 or sha256, into. Correct the "
            "entry."
        )
    checksums = [f"{kind}:{entry[kind]}" for kind in ("sha256", "md5") if kind in entry]
    return Archive(
        entry["url"], entry.get("size"), checksums[0] if checksums else None, entry.get("into", ".")
    )
