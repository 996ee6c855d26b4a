"""What a user asks of the pipeline, as plain values, and the places that follow from it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detector.config import Config, load_config, resolve_config
from detector.config.overrides import parse_options
from detector.config.resolve import NEWEST
from detector.errors import DatasetError
from tasks import manifests
from tasks.digests import Contents, DigestCache, Entry, digest
from tasks.settings import freeze, leaves, pruned

DATA_ROOT, RUNS_ROOT = Path("data"), Path("runs")
SOURCES = (Path("configs/sources"), Path("data/sources"))  # as kept in git, DVC's copy of it
MADE = ("annotations", "source.json")  # below a data set's folder: what steps make, no part of its manifest
PATH_KEYS = ("ann_file", "img_prefix", "seg_prefix", "proposal_file", "ins_ann_file")


@dataclass(frozen=True)
class DataRequest:
    """A data set by name and the store that holds its files.

    Attributes:
        dataset: name of the data set; its place in the project is ``data/<dataset>``. Of a name that stands
            for several versions (NEWEST) the newest is taken.
        store: folder outside the project for downloads; None means ``DETECTOR_DATASETS`` or ``.datasets``.
    """

    dataset: str = "sample"
    store: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", NEWEST.get(self.dataset, self.dataset))

    @property
    def root(self) -> Path:
        """The place of the data set in the project."""
        return DATA_ROOT / self.dataset

    @property
    def manifest(self) -> Path:
        """The file that records the data: beside its folder, which may be a link to somebody else's."""
        return DATA_ROOT / f"{self.dataset}.manifest"

    @property
    def made(self) -> tuple[str, ...]:
        """What the steps make below ``root``; nothing for a folder of the user's own."""
        return MADE if self.recipe() else ()

    @property
    def store_path(self) -> Path:
        """The absolute path of the store."""
        return Path(self.store or os.environ.get("DETECTOR_DATASETS") or ".datasets").expanduser().absolute()

    def recipe(self) -> dict[str, str]:
        """File name -> content digest of what describes the data set's sources."""
        for folder in SOURCES:
            files = sorted(folder.glob(f"{self.dataset}.yaml")) if self.dataset else []
            if files:
                return {path.name: sha for path, sha in DigestCache().files(files).items()}
        return {}


@dataclass(frozen=True)
class Request:
    """One run of the pipeline.

    Attributes:
        config: a family name ('mask_rcnn'), a full config name or a path.
        dataset: the data for a family name; a full config brings its own.
        seed: of the training.
        epochs: replaces the length of the config's schedule.
        score_threshold: detections below it are not evaluated or submitted; None means as in the config.
        device: 'cpu', 'cuda' or 'cuda:N'; None takes the first GPU there is, otherwise the CPU.
        processes: training processes, one per GPU (or per group of CPU cores).
        store: see DataRequest.
        overrides: 'key=value' as after --cfg-options, over the config.
    """

    config: str = "mask_rcnn"
    dataset: str = "sample"
    seed: int = 0
    epochs: int | None = None
    score_threshold: float | None = None
    device: str | None = None
    processes: int = 1
    store: str | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", tuple(self.overrides))  # JSON knows only lists

    @cached_property
    def options(self) -> dict[str, Any]:
        """The overrides that the request makes to its config."""
        length = {} if self.epochs is None else {"runner.max_epochs": self.epochs}
        return {**parse_options(self.overrides, argument="overrides"), **length}

    @cached_property
    def loaded(self) -> Config:
        """The config with the request's overrides applied."""
        return load_config(resolve_config(self.config, self.dataset), self.options)

    @property
    def name(self) -> str:
        """The full name of the config."""
        return self.loaded.name

    @property
    def run_dir(self) -> Path:
        """Where everything made from this config, seed and overrides is kept."""
        return RUNS_ROOT / self.name / f"seed{self.seed}{variant(self.overrides)}"

    @property
    def checkpoint(self) -> Path:
        """The promoted result of the training."""
        return self.run_dir / "model.pth"

    @property
    def data(self) -> DataRequest | None:
        """The data set below ``data/`` that the config reads, or None when its files come from elsewhere."""
        for part in ("train", "val", "test"):
            for path in self._paths(part):
                request = DataRequest(dataset=owner(path), store=self.store)
                if request.recipe():
                    return request
        return None

    def _paths(self, part: str) -> list[Path]:
        return dataset_paths((self.loaded.data.get("data") or {}).get(part))

    def inputs(self, *parts: str) -> dict[str, str]:
        """Path -> content digest of the annotations and images of the dataset parts ('train', 'val', 'test').

        Raises:
            DatasetError: something named in the config is not there.
        """
        return self.digests(
            [path for part in parts for path in dataset_paths(self.loaded.data.get("data", {}).get(part))]
        )

    def digests(self, paths: Sequence[Path]) -> dict[str, str]:
        """Path -> content digest.

        Raises:
            DatasetError: a path is not there, or differs from the data set's manifest.
        """
        for path in paths:
            if not path.exists():
                raise DatasetError(self._missing(path))
        cache = DigestCache()
        found = {path: cache.contents(path) for path in dict.fromkeys(paths)}
        check_recorded(found)
        return {path.as_posix(): contents.digest for path, contents in found.items()}

    def _missing(self, path: Path) -> str:
        where = f"{self.loaded.path}: {path} does not exist, but the config reads it."
        if self.data is None:
            return f"{where} Put the data there, or set data_root in the config to where it is."
        name = self.data.dataset
        part = part_with(name, path)
        first = (
            f"It is in the part {part!r}, which comes only when named: type `detector download {name} "
            f"--parts {part}`, then "
            if part
            else f"The data set {name!r} is not prepared in this folder. Type "
        )
        made = self.data.root / "annotations" / path.name
        return (
            f"{where} {first}`python -m tasks prepare --dataset {name}` and `python -m tasks convert "
            f"--dataset {name}`, or `prefect deployment run prepare-data --param dataset={name}`."
            + (
                f" Converted annotations go to {made.parent}: name {made} in the config."
                if _moved(path)
                else ""
            )
        )

    def settings(self, *, without: Sequence[str] = ()) -> str:
        """A digest of the config's effective values, leaving out the dotted keys in ``without``."""
        return digest(freeze(pruned(self.loaded.data, [key.split(".") for key in without])))

    def values(self, *, without: Sequence[str] = ()) -> dict[str, str]:
        """What ``settings`` digests: dotted key -> value as text."""
        return dict(leaves(pruned(self.loaded.data, [key.split(".") for key in without]), ""))


def variant(overrides: Sequence[str]) -> str:
    """What a folder's name says of overrides: readable, and different for different ones; '' for none."""
    if not overrides:
        return ""
    words = re.sub(r"[^A-Za-z0-9_.=]+", "-", "-".join(overrides)).strip("-")
    return f"-{words[:60]}-{digest(sorted(overrides))[:6]}"


def owner(path: Path) -> str:
    """The data set that a path of a config belongs to, '' for none of ours.

    It is the folder below ``data/``, or the data set whose part MMDetection's configs expect there, such as
    ``data/VOCdevkit``; one that is not the link to that part is the user's own.
    """
    from detector.data.download.datasets import DATASETS

    parts = path.parts
    if len(parts) < 2 or parts[0] != DATA_ROOT.name:
        return ""
    beside = {part.name: name for name, found in DATASETS.items() for part in found if part.beside}
    name = beside.get(parts[1])
    if name is None:
        return parts[1]
    place, linked = DATA_ROOT / parts[1], DATA_ROOT / name / parts[1]
    own = place.exists() and (not linked.exists() or not place.samefile(linked))
    return "" if own else name


def check_recorded(found: Mapping[Path, Contents]) -> None:
    """Compare what the paths of a config hold with the manifests of their data sets, if those have any.

    Raises:
        DatasetError: files were changed, removed or added since.
    """
    recorded: dict[str, dict[str, Entry]] = {}
    for path, contents in found.items():
        name = owner(path)
        request = DataRequest(name)
        if not name or not request.manifest.is_file():
            continue
        inside = path.parts[2:] if path.parts[1] == name else path.parts[1:]
        if inside and inside[0] in request.made:
            continue
        if name not in recorded:
            recorded[name] = manifests.load(request.manifest)
        now = contents.files if inside else manifests.without(contents.files, request.made)
        drift = manifests.compare(manifests.below(recorded[name], "/".join(inside)), now)
        if drift:
            raise DatasetError(manifests.drifted(path, request.manifest, drift, name))


def part_with(dataset: str, path: Path) -> str:
    """The part of a data set that gives a missing file and comes only when it is named, '' for none."""
    from detector.data.download.sources import load_source

    wanted = path.parts[2:]
    try:
        archives = load_source(dataset).archives
    except DatasetError:
        return ""
    for archive in archives:
        given = Path(archive.gives).parts
        same = wanted == given if given[0] == "annotations" else wanted[:1] == given[:1]
        if same and not archive.default:
            return archive.part
    return ""


def _moved(path: Path) -> bool:
    """Whether a path is a file right below ``data/``, where nothing of ours goes."""
    return len(path.parts) == 2 and path.suffix == ".json"


def dataset_paths(cfg: Any) -> list[Path]:
    """Every file and folder that a dataset section of a config reads, wrappers and lists followed."""
    return list(dict.fromkeys(_paths(cfg, "")))


def _paths(cfg: Any, root: str) -> Iterator[Path]:
    if isinstance(cfg, list | tuple):
        for item in cfg:
            yield from _paths(item, root)
        return
    if not isinstance(cfg, Mapping):
        return
    root = cfg.get("data_root") or root
    for key in PATH_KEYS:
        value = cfg.get(key)
        values = value if isinstance(value, list | tuple) else [value]
        yield from (Path(root, item) for item in values if isinstance(item, str) and item)
    for key in ("dataset", "datasets"):
        yield from _paths(cfg.get(key), root)
