"""Weights by name: from a URI to a file on this machine, through one folder that all runs share.

A URI is a local path, a web address, ``torchvision://<model>``, ``open-mmlab://<name>`` or
``mmcls://<name>``. A file that is not here is downloaded once (a lock holds other processes back), goes on
where an earlier try stopped, and is held against the digits of its sha256 that its name ends with
(``resnet50-0676ba61.pth``). Without a network the error says which file to place where.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detector.errors import CheckpointError
from detector.fetch import Patience, fetch
from detector.naming import close_names
from detector.whole_files import sha256_file

WEB = ("https://", "http://")
PATIENCE = Patience(attempts=4, wait_s=1.0, timeout_s=30.0)
#: scheme -> tables of names in the mmengine package, read as data; a later table renames into the first
TABLES = {
    "torchvision": ("hub/torchvision_0.12.json",),
    "modelzoo": ("hub/torchvision_0.12.json",),  # the old name of torchvision
    "open-mmlab": ("hub/openmmlab.json", "hub/deprecated.json"),
    "mmcls": ("hub/mmcls.json",),
}
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+(?:\.tar)?$")
_DATE = re.compile(r"20[0-3]\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)

#: given the name of a file that is fetched, returns a callback of (bytes here, bytes in all) or None
ProgressFor = Callable[[str], Callable[[int, int], None] | None]


def weight_folders() -> list[Path]:
    """Folders that are searched for weights, the first one being where files go: ours, then torch hub's."""
    torch_home = Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch")
    return [
        Path(os.environ.get("DETECTOR_CACHE") or ".cache") / "weights",
        torch_home / "hub" / "checkpoints",
    ]


def offline() -> bool:
    """Whether ``DETECTOR_OFFLINE`` forbids to try the network."""
    return os.environ.get("DETECTOR_OFFLINE", "").lower() not in ("", "0", "false", "no")


def resolve_weights(uri: str, *, download: bool = True, progress: ProgressFor | None = None) -> Path:
    """Local file of a weights URI.

    Args:
        uri: path, web address, ``torchvision://resnet50``, ``open-mmlab://detectron2/resnet50_caffe`` or
            ``mmcls://resnet50``.
        download: fetch what is not here (not where ``DETECTOR_OFFLINE=1``); False looks on this machine only.
        progress: shows a download.

    Raises:
        CheckpointError: unknown name, or the file is not here and cannot be fetched.
    """
    path = Path(uri).expanduser()
    if path.is_file():
        return path
    url = weights_url(uri)
    if url is None:
        placed = [folder / path.name for folder in weight_folders() if path.parent == Path()]
        for place in placed:  # a bare name, as some configs of the reference have it
            if place.is_file():
                return place
        where = f"{Path.cwd()}" + "".join(f" or {place.parent}" for place in placed)
        raise CheckpointError(
            f"weights: found no file {uri!r} (from {where}). Give a path that exists, or a URL."
        )
    found, faults = _look(url)
    if found is not None:
        return found
    name, folders = file_name(url), weight_folders()
    needs = f"weights: {uri!r} needs the file {name}, which is not in {' or '.join(map(str, folders))}"
    needs += "".join(f" ({fault})" for fault in faults)
    if not download or offline():
        reason = "" if not download else " and is not fetched, as DETECTOR_OFFLINE is set"
        raise CheckpointError(f"{needs}{reason}. {_by_hand(url)}, or give the path of a file instead.")
    try:
        return fetch_weights(url, place_of(url).absolute(), progress=progress)
    except CheckpointError as error:
        raise CheckpointError(f"{needs}. {error} Or give the path of a file instead of the URI.") from error


def fetch_weights(
    url: str, target: Path, *, checksum: str | None = None, progress: ProgressFor | None = None
) -> Path:
    """Download a weights file, once for all processes; what is there already and right is kept.

    Args:
        url: web address.
        target: the file; it appears only complete and checked.
        checksum: expected 'sha256:<first digits>'; by default what the name of the address says.
        progress: shows the download.

    Raises:
        CheckpointError: refused, given up, or the bytes are not the expected ones.
    """
    checksum = checksum or named_checksum(file_name(url))
    if target.is_file() and not _fault(target, checksum):
        return target
    if offline():
        raise CheckpointError(f"{url}: not fetched, as DETECTOR_OFFLINE is set; expected it at {target}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_name(f".{target.name}.lock")):
        if target.is_file() and not _fault(target, checksum):
            return target
        callback = progress(target.name) if progress else None
        return fetch(
            url, target, checksum=checksum, patience=PATIENCE, progress=callback, error=CheckpointError
        )


def weights_url(uri: str) -> str | None:
    """Web address of a URI; None for a plain path.

    Raises:
        CheckpointError: unknown scheme, or an unknown name after it.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return None
    if uri.startswith(WEB):
        return uri
    if scheme[1] not in TABLES:
        raise CheckpointError(
            f"weights: {uri!r} has the unknown scheme {scheme[1]}://; expected a path, http(s):// or one of "
            f"{', '.join(f'{name}://' for name in TABLES)}. Download the file and give its path."
        )
    name = uri[scheme.end() :]
    names = _names(scheme[1])
    if name in names:
        return names[name]
    url = _torchvision_url(name) if scheme[1] in ("torchvision", "modelzoo") else None
    if url is None:
        near = close_names(name, names, count=1)
        hint = f"Did you mean {scheme[1]}://{near[0]}?" if near else f"It has {len(names)} names."
        raise CheckpointError(f"weights: {scheme[1]}:// has no model {name!r}. {hint}")
    return url


def file_name(url: str) -> str:
    """Last part of an address, without its query."""
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1]


def place_of(url: str) -> Path:
    """Where a download goes: by its bare name if that tells files apart, else by host and path."""
    folder, name = weight_folders()[0], file_name(url)
    if named_checksum(name) is not None:
        return folder / name
    parts = urlsplit(url)
    above = [part for part in unquote(parts.path).split("/")[:-1] if part not in ("", ".", "..")]
    return folder.joinpath(parts.netloc.replace(":", "_"), *above, name)


def named_checksum(name: str) -> str | None:
    """'sha256:<first digits>' of a name such as ``resnet50-0676ba61.pth``; None where it says nothing.

    Eight digits that read as a date are taken for one.
    """
    match = _DIGEST.search(name)
    return None if match is None or _DATE.fullmatch(match[1]) else f"sha256:{match[1]}"


def _by_hand(url: str) -> str:
    """What to do where this machine cannot fetch a file."""
    digest = (named_checksum(file_name(url)) or "").removeprefix("sha256:")
    known = f" (its sha256 starts with {digest})" if digest else ""
    return f"Fetch {url}{known} and place it at {place_of(url).absolute()}"


def _look(url: str) -> tuple[Path | None, list[str]]:
    """The file if it is here, and what is wrong with files of its name that do not count."""
    name, faults = file_name(url), []
    for path in dict.fromkeys([*(folder / name for folder in weight_folders()), place_of(url)]):
        if path.is_file():
            fault = _fault(path, named_checksum(name))
            if not fault:
                return path, []
            faults.append(fault)
    return None, faults


def _fault(path: Path, checksum: str | None) -> str:
    """What is wrong with a file that is here, '' for nothing."""
    if checksum is None:
        return ""
    expected = checksum.removeprefix("sha256:")
    found = sha256_file(path)
    return (
        ""
        if found.startswith(expected)
        else f"{path} has sha256 {found[:12]}..., expected {expected[:12]}..."
    )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file lock; another process waits here, a killed one blocks nobody."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@cache
def _names(scheme: str) -> dict[str, str]:
    """Name -> web address of a scheme."""
    spec = importlib.util.find_spec("mmengine")
    if spec is None or spec.origin is None:
        return {}
    root = Path(spec.origin).parent
    tables = [json.loads((root / table).read_text(encoding="utf-8")) for table in TABLES[scheme]]
    names: dict[str, str] = tables[0]
    for renames in tables[1:]:
        names |= {old: names[new] for old, new in renames.items() if new in names}
    return names


def _torchvision_url(name: str) -> str | None:
    """Address of torchvision's weights: ``resnet50`` (their first version), ``resnet50.imagenet1k_v2``."""
    from torchvision import models

    model, _, version = name.partition(".")
    try:
        known = models.get_model_weights(model)
        chosen = known[version.upper()] if version else next(iter(known))
    except (ValueError, KeyError, StopIteration):
        return None
    return str(chosen.url)
