"""The files of ``configs/sources``, which say where each data set comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from detector.errors import DatasetError
from detector.naming import close_names

if TYPE_CHECKING:
    from detector.data.synthetic.recipe import Recipe

ARCHIVE_KEYS = {"part", "url", "package", "size", "md5", "sha256", "into", "gives", "inner", "default"}


@dataclass(frozen=True)
class Archive:
    """One file on a server.

    Attributes:
        part: name by which it is chosen.
        url: http or https; '' for a package.
        package: name of the file in Cityscapes' own download service, which wants a login.
        size: bytes, None when not known.
        checksum: '<algorithm>:<hex>', None when not known.
        into: folder below the data set's folder in which it is extracted.
        gives: a path below the data set's folder that is there afterwards.
        inner: archives in this one (paths in it) and the folders in which those are extracted.
        default: whether it comes without being asked for.
    """

    part: str
    url: str = ""
    package: str = ""
    size: int | None = None
    checksum: str | None = None
    into: str = "."
    gives: str = "."
    inner: Mapping[str, str] = field(default_factory=dict)
    default: bool = True

    @property
    def file_name(self) -> str:
        """Last part of the address."""
        return self.package or Path(unquote(urlsplit(self.url).path)).name

    @property
    def key(self) -> list[Any]:
        """What changes when the data would; another server for the same file is no change."""
        return [self.file_name, self.size, self.checksum, self.into]


@dataclass(frozen=True)
class Source:
    """What a file of ``configs/sources`` says: a recipe or archives, or only how to place the data by hand.

    Attributes:
        recipe: the data set is drawn.
        archives: it is downloaded.
        by_hand: how the user can place it, where a download is impossible or needs an account.
        needs: other data sets -> their parts that belong to this one, too.
    """

    dataset: str
    recipe: Recipe | None = None
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def digest(self, archives: Iterable[Archive] | None = None) -> str:
        """Sha256 that changes when the data would.

        Args:
            archives: those that are there, by default all.
        """
        if self.recipe:
            return self.recipe.digest()
        files = [archive.key for archive in (self.archives if archives is None else archives)]
        return hashlib.sha256(json.dumps([self.dataset, files]).encode()).hexdigest()

    def choose(self, parts: Sequence[str] | None) -> tuple[Archive, ...]:
        """Archives by the names of their parts; None for those that come without being asked for.

        Raises:
            DatasetError: a part is not known.
        """
        if parts is None:
            return tuple(archive for archive in self.archives if archive.default)
        names = [archive.part for archive in self.archives]
        for part in parts:
            if part not in names:
                close = close_names(part, names, count=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                expected = f"one of {', '.join(names)}" if names else "none, it is drawn as a whole"
                raise DatasetError(
                    f"data set {self.dataset!r} has no part {part!r}, expected {expected}.{hint}"
                )
        return tuple(archive for archive in self.archives if archive.part in parts)

    def lines(self) -> list[str]:
        """One line per archive: its part, size, address and whether it comes by default."""
        if self.recipe:
            return [f"{self.dataset} is drawn: {self.recipe.as_dict()}"]
        lines = []
        for archive in self.archives:
            size = f"{archive.size / 1e6:.1f} MB" if archive.size else "size unknown"
            from_ = archive.url or f"{archive.package} (needs a login)"
            lines.append(
                f"{archive.part:16} {size:>12}  {from_}{'' if archive.default else '  (only when named)'}"
            )
        return lines or [self.by_hand]


def source_file(name: str) -> Path:
    """The data set's source file: as kept in ``configs/sources``, else DVC's copy in ``data/sources``."""
    beside_package = Path(__file__).resolve().parents[3] / "configs" / "sources"
    for folder in (Path("configs/sources"), Path("data/sources"), beside_package):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise DatasetError(
        f"data set {name!r}: found no {name}.yaml in data/sources or configs/sources, expected one that says "
        "where the data comes from. Run the command in the project's folder, or restore the file."
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
    kinds = {"recipe", "archives", "by_hand"} & set(values) if isinstance(values, dict) else set()
    if kinds not in ({"recipe"}, {"archives"}, {"by_hand"}, {"archives", "by_hand"}):
        raise DatasetError(
            f"{path}: expected a mapping with one of recipe, archives, by_hand (the last two together where "
            "a login is needed). Restore the file."
        )
    if values.get("dataset") != name:
        raise DatasetError(
            f"{path}: describes {values.get('dataset')!r}, expected {name!r}. Give the right file."
        )
    if "recipe" in values:
        # It draws with libraries that take a while to load.
        from detector.data.synthetic.recipe import Recipe

        return Source(name, recipe=Recipe.from_dict(values["recipe"] or {}))
    archives = tuple(_archive(path, entry) for entry in values.get("archives") or ())
    needs = {str(other): tuple(parts) for other, parts in (values.get("needs") or {}).items()}
    return Source(name, archives=archives, by_hand=str(values.get("by_hand", "")), needs=needs)


def _archive(path: Path, entry: Any) -> Archive:
    unknown = set(entry) - ARCHIVE_KEYS if isinstance(entry, Mapping) else {repr(entry)}
    addresses = [entry.get(key) for key in ("url", "package") if key in entry] if not unknown else []
    if unknown or len(addresses) != 1 or not isinstance(addresses[0], str):
        raise DatasetError(
            f"{path}: archive {entry!r}: expected url or package, and as known part, size, md5 or sha256, "
            "into, gives, inner, default. Correct the entry."
        )
    checksums = [f"{kind}:{entry[kind]}" for kind in ("sha256", "md5") if kind in entry]
    archive = Archive(
        part=str(entry.get("part", "")),
        url=entry.get("url", ""),
        package=entry.get("package", ""),
        size=entry.get("size"),
        checksum=checksums[0] if checksums else None,
        into=entry.get("into", "."),
        gives=entry.get("gives", "."),
        inner=dict(entry.get("inner") or {}),
        default=bool(entry.get("default", True)),
    )
    inside = [archive.into, archive.gives, *archive.inner, *archive.inner.values()]
    outside = [place for place in inside if Path(place).is_absolute() or ".." in Path(place).parts]
    if outside or archive.file_name in ("", ".", "..") or "/" in archive.file_name:
        raise DatasetError(
            f"{path}: archive {entry!r}: found {outside or 'an address without a file name'}, expected paths "
            "below the data set's folder and a file's address. Correct the entry."
        )
    return archive
