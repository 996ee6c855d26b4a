"""Downloading one file over HTTP: resumes, retries, checks, and appears whole.

Data sets (``data/download``) and weights (``checkpoint/weights.py``) come through here. Standard library
only.
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from detector.errors import DatasetError, DetectorError

CHUNK = 1 << 20
# Answers that may be different next time.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
BROKEN_OFF = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Patience:
    """How long to keep trying.

    Attributes:
        attempts: tries in a row that bring no new byte before giving up.
        wait_s: pause after the first failure; doubles up to a minute.
        timeout_s: silence of the server that counts as a failure.
    """

    attempts: int = 6
    wait_s: float = 1.0
    timeout_s: float = 30.0


class _BrokenOffError(Exception):
    """The transfer ended early; what came is kept."""


class _RefusedError(Exception):
    """An answer that will not change."""


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    patience: Patience = Patience(),
    progress: Callable[[int, int], None] | None = None,
    error: type[DetectorError] = DatasetError,
) -> Path:
    """Download ``url`` to ``target``, continuing an earlier try from ``<target>.part``.

    Args:
        url: http or https.
        target: file to write; it appears only complete and checked.
        size: expected bytes.
        checksum: expected '<algorithm>:<hex>', e.g. 'sha256:...' or 'md5:...'; the first digits are enough.
        patience: how often and how long to try.
        progress: called with (bytes here, bytes in all); not called while the length is unknown.
        error: what is raised, by the kind of file.

    Returns:
        ``target``. A file that is there already and passes the checks is kept as it is.

    Raises:
        DetectorError: an ``error``: refused, given up, or the bytes are not the expected ones.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise error(f"{url}: found another kind of address, expected http or https. Correct the address.")
    if target.is_file() and (size or checksum) and not _wrong(target, size, checksum):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures, fault, spoilt = 0, "", False
    while failures < patience.attempts:
        before = _length(part)
        try:
            _transfer(url, part, size=size, timeout_s=patience.timeout_s, progress=progress)
        except _RefusedError as refused:
            raise error(str(refused)) from refused
        except (*BROKEN_OFF, _BrokenOffError) as broken:
            fault = _fault(broken)
            failures = failures + 1 if _length(part) <= before else 1
            if failures < patience.attempts:
                time.sleep(min(patience.wait_s * 2 ** (failures - 1), 60.0))
            continue
        fault = _wrong(part, size, checksum)
        if not fault:
            part.replace(target)
            _tag_file(part).unlink(missing_ok=True)
            return target
        part.unlink(missing_ok=True)
        if spoilt:
            break
        # Once more from the start: a byte may have flipped on the way.
        spoilt, failures = True, 0
    raise error(
        f"{url}: {fault}; expected {_expected(size, checksum)}. Try again later (what came is kept), or "
        "download it "
        f"yourself to {target}."
    )


def _transfer(
    url: str, part: Path, *, size: int | None, timeout_s: float, progress: Callable[[int, int], None] | None
) -> None:
    """Append what is missing to ``part``.

    Start afresh when the server's file is another one or it cannot resume.
    """
    tag_file = _tag_file(part)
    tag = tag_file.read_text(encoding="utf-8") if tag_file.is_file() else ""
    offset = _length(part) if tag else 0
    request = urllib.request.Request(url, headers={"User-Agent": "detector", "Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", tag)
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code in PASSING:
            raise
        if error.code != 416:
            raise _RefusedError(
                f"{url}: the server answered {error.code} {error.reason}, expected the file. Check the "
                "address."
            ) from error
        # Nothing is left after the offset: whole, or no file of ours.
        if error.headers.get("Content-Range", "").rpartition("/")[2] != str(offset):
            part.unlink(missing_ok=True)
            raise _BrokenOffError("the server holds another file than before") from error
        return
    with response:
        resumed = response.status == 206 and _range_start(response.headers) == offset
        if response.status == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise _BrokenOffError("the server sent another range than asked for")
        done = offset if resumed else 0
        declared = response.headers.get("Content-Length")
        total = done + int(declared) if declared and declared.isdigit() else None
        if size is not None and total is not None and total != size:
            part.unlink(missing_ok=True)
            raise _RefusedError(
                f"{url}: the server offers {total} bytes, expected {size}. Check the address."
            )
        tag_file.write_text(_validator(response.headers), encoding="utf-8")
        _append(response, part, done=done, total=total, fresh=not resumed, progress=progress)


def _append(
    response: http.client.HTTPResponse,
    part: Path,
    *,
    done: int,
    total: int | None,
    fresh: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    with part.open("wb" if fresh else "ab") as file:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress and total:
                progress(done, total)
    if total is not None and done < total:
        raise _BrokenOffError(f"the connection ended after {done} of {total} bytes")


def _fault(error: BaseException) -> str:
    """The failure in words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    return f"the transfer failed ({getattr(error, 'reason', None) or error or type(error).__name__})"


def _wrong(path: Path, size: int | None, checksum: str | None) -> str:
    """What is wrong with a complete file, or an empty string."""
    if size is not None and _length(path) != size:
        return f"came with {_length(path)} bytes"
    if checksum:
        algorithm, _, expected = checksum.partition(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if not expected or not found.startswith(expected.lower()):
            return f"came with {algorithm} {found}"
    return ""


def _expected(size: int | None, checksum: str | None) -> str:
    known = [f"{size} bytes"] if size is not None else []
    return " and ".join([*known, checksum.replace(":", " ")] if checksum else known) or "the whole file"


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _validator(headers: http.client.HTTPMessage) -> str:
    """Strong ETag or date of the server's file, by which a later try knows that it is still the same."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _range_start(headers: http.client.HTTPMessage) -> int:
    first = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else -1


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
