"""How each format carries a stamp without changing what others read in it.

A PNG holds it in a tEXt chunk, a JPEG in a comment segment, a zip in its comment, a json document under
``lineage``, and a results pickle after its end: pickles are read up to their STOP, and Python's documentation
promises that bytes behind it are ignored, so the file stays the plain list that MMDetection's tools read.
What can hold none of these gets ``<file>.lineage.json`` beside it.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.lineage.stamp import KEY, Stamp, current, without_text
from detector.whole_files import replacing

SIDECAR = ".lineage.json"
KEYWORD = b"detector.lineage"  # of the PNG chunk; starts the JPEG comment
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8"
JPEG_COMMENT_LIMIT = 65_533
ZIP_COMMENT_LIMIT = 65_535
TRAILER = b"\ndetector.lineage\n"  # the last bytes of a stamped pickle, after the stamp and its length


def dumped(stamp: Mapping[str, Any]) -> bytes:
    """A stamp as ASCII json."""
    return json.dumps(stamp, separators=(",", ":"), default=str).encode("ascii")


def parsed(data: bytes | str | None) -> Stamp | None:
    """The stamp of some json; None for anything else."""
    try:
        found = json.loads(data or "null")
    except (ValueError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) and "stamp" in found else None


def stamped_picture(path: Path, data: bytes) -> bytes:
    """An encoded picture with the current stamp; formats without a place for it get a file beside."""
    stamp = current()
    if stamp is None:
        return data
    text = dumped(without_text(stamp))
    if data.startswith(PNG_START):
        return with_png_text(data, text)
    if data.startswith(JPEG_START) and len(KEYWORD) + 1 + len(text) <= JPEG_COMMENT_LIMIT:
        return with_jpeg_comment(data, text)
    write_sidecar(path, stamp)
    return data


def with_png_text(data: bytes, text: bytes) -> bytes:
    """A PNG with a tEXt chunk right after its header."""
    content = b"tEXt" + KEYWORD + b"\0" + text
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    after = len(PNG_START) + 25  # IHDR: length, name, 13 bytes, checksum
    return data[:after] + chunk + data[after:]


def png_text(data: bytes) -> bytes | None:
    """The text that ``with_png_text`` put in."""
    at = len(PNG_START)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        content = data[at + 8 : at + 8 + length]
        if data[at + 4 : at + 8] == b"tEXt" and content.startswith(KEYWORD + b"\0"):
            return content[len(KEYWORD) + 1 :]
        at += length + 12
    return None


def with_jpeg_comment(data: bytes, text: bytes) -> bytes:
    """A JPEG with a comment segment, after its JFIF header where it has one."""
    at = 2
    if data[2:4] == b"\xff\xe0":
        at += 2 + struct.unpack_from(">H", data, 4)[0]
    content = KEYWORD + b"\0" + text
    return data[:at] + b"\xff\xfe" + struct.pack(">H", len(content) + 2) + content + data[at:]


def jpeg_comment(data: bytes) -> bytes | None:
    """The text that ``with_jpeg_comment`` put in."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:  # up to the start of the scan
        length = struct.unpack_from(">H", data, at + 2)[0]
        content = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xFE and content.startswith(KEYWORD + b"\0"):
            return content[len(KEYWORD) + 1 :]
        at += 2 + length
    return None


def pickle_trailer() -> bytes:
    """What goes after the end of a results pickle; nothing outside of a scope."""
    stamp = current()
    if stamp is None:
        return b""
    text = dumped(stamp)
    return text + struct.pack(">Q", len(text)) + TRAILER


def split_pickle(data: bytes) -> tuple[bytes, bytes | None]:
    """(the pickle itself, the text of its stamp or None)."""
    end = len(data) - len(TRAILER) - 8
    if end < 0 or not data.endswith(TRAILER):
        return data, None
    (length,) = struct.unpack_from(">Q", data, end)
    return (data[: end - length], data[end - length : end]) if length <= end else (data, None)


def zip_comment() -> bytes:
    """The comment of a zip that is written now: with the config's text where that fits."""
    stamp = current()
    if stamp is None:
        return b""
    text = dumped(stamp)
    if len(text) > ZIP_COMMENT_LIMIT:
        text = dumped(without_text(stamp))
    return text if len(text) <= ZIP_COMMENT_LIMIT else b""


def with_key(document: Mapping[str, Any]) -> dict[str, Any]:
    """A json document with the current stamp, in a list: DVC shows every text of an object as a metric."""
    stamp = current()
    return {**document} if stamp is None else {**document, KEY: [stamp]}


def write_sidecar(path: Path, stamp: Mapping[str, Any]) -> Path:
    """Write the stamp of a file beside it."""
    place = path.with_name(path.name + SIDECAR)
    with replacing(place) as stream:
        stream.write(json.dumps(stamp, indent=1, default=str).encode() + b"\n")
    return place


def read_carried(path: Path) -> Stamp | None:
    """The stamp in a picture, zip, json document or results pickle, or beside any file; None without one."""
    with path.open("rb") as stream:
        start = stream.read(8)
    found: Stamp | None = None
    if start == PNG_START:
        found = parsed(png_text(path.read_bytes()))
    elif start.startswith(JPEG_START):
        found = parsed(jpeg_comment(path.read_bytes()))
    elif path.suffix in (".pkl", ".pickle"):
        found = parsed(split_pickle(path.read_bytes())[1])
    elif path.suffix == ".json":
        found = _in_document(path)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found = parsed(archive.comment)
    beside = path.with_name(path.name + SIDECAR)
    return found if found is not None or not beside.is_file() else parsed(beside.read_bytes())


def _in_document(path: Path) -> Stamp | None:
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None  # such as a server's list of results
    found = document if "stamp" in document else document.get(KEY)
    found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, dict) and "stamp" in found else None
