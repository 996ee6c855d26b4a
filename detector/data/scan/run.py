"""The scan: annotations first, then every file once, then what files have in common."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.data.scan.boxes import check_annotations
from detector.data.scan.contents import Contents
from detector.data.scan.copies import Place, find_alike, find_equal
from detector.data.scan.findings import KINDS, Finding
from detector.data.scan.images import Facts, Job, check_files


@dataclass(frozen=True)
class Scan:
    """What a scan gives.

    Attributes:
        sets: the data sets, those that were only compared with as well.
        findings: of all, in the order of the kinds.
        files: number of image files that were read.
        seconds: how long reading them took.
    """

    sets: Sequence[Contents]
    findings: Sequence[Finding]
    files: int
    seconds: float


def scan(
    sets: Sequence[Contents],
    *,
    nproc: int = 1,
    near: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Check annotations and files of data sets, and look for equal files within and across them.

    Args:
        sets: from ``sources``; their ``findings`` grow.
        nproc: worker processes that read the files.
        near: also find images whose difference hashes differ in at most so many of 64 bits; None does not.
        progress: called with (files read, files in all).
    """
    for contents in sets:
        if contents.checked:
            check_annotations(contents)
    places, sizes = _present(sets)
    shared = {size for size, count in Counter(sizes).items() if count > 1}
    jobs = [
        Job(str(p.path), decode=p.contents.checked, digest=size in shared, likeness=near is not None)
        for p, size in zip(places, sizes, strict=True)
    ]
    wanted = [i for i, job in enumerate(jobs) if job.decode or job.digest or job.likeness]
    start = time.monotonic()
    read = dict(
        zip(wanted, check_files([jobs[i] for i in wanted], nproc=nproc, progress=progress), strict=True)
    )
    seconds = time.monotonic() - start
    facts = [read.get(i, Facts()) for i in range(len(jobs))]
    for place, fact in zip(places, facts, strict=True):
        if place.contents.checked:
            _add_file_findings(place, fact)
    find_equal(places, [fact.digest for fact in facts])
    if near is not None:
        find_alike(places, [fact.likeness for fact in facts], bits=near)
    order = {kind: i for i, kind in enumerate(KINDS)}
    findings = sorted((f for contents in sets for f in contents.findings), key=lambda f: order[f.kind])
    return Scan(sets, findings, len(wanted), seconds)


def _present(sets: Sequence[Contents]) -> tuple[list[Place], list[int]]:
    """Files that exist and their sizes in bytes; the others become findings."""
    places: list[Place] = []
    sizes: list[int] = []
    for contents in sets:
        if contents.images_dir is None:
            continue
        for row, name in enumerate(contents.names):
            path = contents.images_dir / name
            try:
                size = os.stat(path).st_size  # noqa: PTH116 - one call per image of a large folder
            except OSError as error:
                if contents.checked:
                    why = "a broken link" if path.is_symlink() else error.strerror or str(error)
                    contents.find("missing-file", name, f"{path}: {why}", row=row)
                continue
            places.append(Place(contents, row, Path(path)))
            sizes.append(size)
    return places, sizes


def _add_file_findings(place: Place, fact: Facts) -> None:
    """Findings about one decoded file."""
    contents, name, row = place.contents, place.name, place.row
    if fact.unreadable:
        contents.find("unreadable-image", name, fact.unreadable, row=row)
        return
    if fact.damage:
        contents.find("damaged-image", name, fact.damage, row=row)
    if fact.hw is None:
        return
    stated = contents.sizes[row]
    told = any(f.kind == "wrong-size" and f.row == row for f in contents.findings[-8:])
    if np.isfinite(stated).all() and tuple(stated) != fact.hw and not told:
        text = f"stated {stated[1]:.0f} x {stated[0]:.0f}, the file has {fact.hw[1]} x {fact.hw[0]}"
        if fact.orientation >= 5 and tuple(stated) == fact.hw[::-1]:
            text += f" after EXIF has turned it (orientation {fact.orientation})"
        contents.find("wrong-size", name, text, row=row)
    if fact.orientation != 1:
        text = f"orientation {fact.orientation}; training sees {fact.hw[1]} x {fact.hw[0]}"
        contents.find("turned-by-exif", name, text, row=row)
