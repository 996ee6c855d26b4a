"""Checks of image files in worker processes: strict decoding, size, orientation, content.

OpenCV gives pixels for a JPEG with broken data and says so only on the process's standard error, below
Python. A worker turns that stream into a file while it decodes, so this runs in processes of its own.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

#: lines by which the decoders tell of damage; their other lines (colour profiles ...) do not matter
_DAMAGE = re.compile(
    r"corrupt|premature|incomplete|crc error|not enough data|extraneous|bogus|error|truncated", re.IGNORECASE
)
_HARMLESS = re.compile(r"warning|\bWARN\b", re.IGNORECASE)
#: the place in OpenCV's source that its messages start with
_PLACE = re.compile(r"^\[[ \w]+:\d+@[\d.]+\] global \S+:\d+ (\w+ )?")
_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Job:
    """What to do with one file.

    Attributes:
        path: the file.
        decode: whether to decode it.
        digest: whether to take the sha256 of its bytes.
        likeness: whether to take its difference hash.
    """

    path: str
    decode: bool = True
    digest: bool = False
    likeness: bool = False


@dataclass(frozen=True)
class Facts:
    """What one file is.

    Attributes:
        hw: (height, width) as training sees it, turned by EXIF; None when it cannot be decoded or was not.
        orientation: EXIF's, 1 for upright.
        unreadable: why it cannot be decoded, '' if it can.
        damage: what the decoder says about its content, '' for nothing.
        digest: sha256, '' if not asked for.
        likeness: 64-bit difference hash, None if not asked for or the image has no structure.
    """

    hw: tuple[int, int] | None = None
    orientation: int = 1
    unreadable: str = ""
    damage: str = ""
    digest: str = ""
    likeness: int | None = None


def check_files(
    jobs: Sequence[Job], *, nproc: int = 1, progress: Callable[[int, int], None] | None = None
) -> Iterator[Facts]:
    """Facts of every file, in order, from ``nproc`` worker processes."""
    if not jobs:
        return
    chunk = max(1, min(32, len(jobs) // (max(1, nproc) * 4)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(nproc, len(jobs))), mp_context=context) as pool:
        try:
            for done, facts in enumerate(pool.map(check_file, jobs, chunksize=chunk), start=1):
                if progress is not None:
                    progress(done, len(jobs))
                yield facts
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def check_file(job: Job) -> Facts:
    """Facts of one file; what goes wrong is part of them."""
    try:
        content = np.fromfile(job.path, np.uint8)
    except OSError as error:
        return Facts(unreadable=f"cannot be opened ({error.strerror or error})")
    digest = hashlib.sha256(content.data).hexdigest() if job.digest else ""
    if not job.decode and not job.likeness:
        return Facts(digest=digest)
    if not content.size:
        return Facts(unreadable="the file is empty", digest=digest)
    image, said = _decoded(content)
    if image is None:
        return Facts(unreadable=_why(content, said), digest=digest)
    likeness = difference_hash(image) if job.likeness else None
    orientation = _orientation(content)
    height, width = image.shape[:2]
    return Facts((height, width), orientation, damage=said, digest=digest, likeness=likeness)


def _decoded(content: NDArray[np.uint8]) -> tuple[NDArray[np.uint8] | None, str]:
    """Pixels as training decodes them, and the damage that the decoder tells of."""
    cv2.setNumThreads(0)
    said = _stream()
    said.seek(0)
    said.truncate()
    with _standard_error_into(said):
        try:
            image = cv2.imdecode(content, cv2.IMREAD_COLOR)
        except cv2.error as error:
            return None, str(error.err)
    said.seek(0)
    lines = said.read().decode(errors="replace").splitlines()
    told = [_PLACE.sub("", s) for s in lines if _DAMAGE.search(s) and not _HARMLESS.search(s)]
    return image, (told[0][:160] if told else "")


@cache
def _stream() -> BinaryIO:
    """One file per process for what decoders say."""
    return tempfile.TemporaryFile()  # type: ignore[return-value]


@contextmanager
def _standard_error_into(file: BinaryIO) -> Iterator[None]:
    """Let the whole process write its standard error to a file."""
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Pillow warns of damaged EXIF and of very large images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _why(content: NDArray[np.uint8], said: str) -> str:
    """Why a file cannot be decoded, in the words of the decoder that has some."""
    try:
        with _no_warnings(), Image.open(BytesIO(content.tobytes())) as picture:
            kind = picture.format
            picture.load()
    except UnidentifiedImageError:
        start = bytes(content[:4]).hex(" ")
        return f"{content.size} bytes that start with {start}, which is no image format"
    except Exception as error:  # a damaged file raises almost anything
        return f"{error}"[:160]
    return said or f"a {kind} file that OpenCV does not decode"


def _orientation(content: NDArray[np.uint8]) -> int:
    """EXIF's orientation, 1 to 8."""
    try:
        with _no_warnings(), Image.open(BytesIO(content.tobytes())) as picture:
            value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # OpenCV has decoded it: formats that Pillow does not know have no orientation here
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def difference_hash(image: NDArray[np.uint8]) -> int | None:
    """64 bits that change little with size, compression and brightness; None for an image without structure.

    Which pixel of a 9 x 8 grey image is brighter than its left neighbour.

    Source: N. Krawetz, "Kind of Like That", 2013.
    """
    grey = cv2.cvtColor(cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    if int(grey.max()) - int(grey.min()) < 8:
        return None
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")
