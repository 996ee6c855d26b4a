"""Equal and similar files within one data set and across two.

Shapes: f files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.data.scan.contents import Contents

_BLOCK = 1024  # rows of the table of distances that are in memory at once


@dataclass(frozen=True)
class Place:
    """A file of a data set: which data set, which image, and where it lies."""

    contents: Contents
    row: int
    path: Path

    @property
    def name(self) -> str:
        """The file name as the data set has it."""
        return self.contents.names[self.row]


def find_equal(places: Sequence[Place], digests: Sequence[str]) -> None:
    """Add duplicate files and leaks to the data sets.

    Args:
        places: f files.
        digests: sha256 of each, '' for a file that no other equals.
    """
    groups: defaultdict[str, list[Place]] = defaultdict(list)
    for place, digest in zip(places, digests, strict=True):
        if digest:
            groups[digest].append(place)
    for group in groups.values():
        _add_group(group, "duplicate-file", "leakage", "the same content as")


def _add_group(group: list[Place], within: str, across: str, words: str) -> None:
    """Findings of files that belong together: one per copy within a data set, one per pair of data sets."""
    by_set: dict[int, list[Place]] = {}
    for place in group:
        by_set.setdefault(id(place.contents), []).append(place)
    for members in by_set.values():
        first = members[0]
        for other in members[1:]:
            if other.path != first.path and first.contents.checked:
                other.contents.find(within, other.name, f"{words} {first.name}", row=other.row)
    firsts = [members[0] for members in by_set.values()]
    for i, first in enumerate(firsts):
        for other in firsts[i + 1 :]:
            detail = "the same file as" if first.path == other.path else words
            for member in by_set[id(first.contents)]:
                text = f"{detail} {other.name} of {other.contents.title}"
                member.contents.find(across, member.name, text, row=member.row)


def find_alike(places: Sequence[Place], hashes: Sequence[int | None], *, bits: int) -> None:
    """Add pairs of images whose difference hashes differ in at most ``bits`` of 64 bits.

    Args:
        places: f files; those of equal content must have been found before.
        hashes: difference hash of each, None for an image without structure.
        bits: 0 to 64.
    """
    first_of = {(id(place.contents), place.path): i for i, place in reversed(list(enumerate(places)))}
    known = [i for i in sorted(first_of.values()) if hashes[i] is not None]
    values = np.array([hashes[i] for i in known], np.uint64)
    equal = {(f.kind, f.data_set, f.subject) for p in places for f in p.contents.findings if f.kind in _EQUAL}
    for a, b, apart in _pairs(values, bits):
        first, other = places[known[a]], places[known[b]]
        if first.path == other.path or not (first.contents.checked or other.contents.checked):
            continue
        same_set = first.contents is other.contents
        owner, partner = (other, first) if same_set else (first, other)
        exact = ("duplicate-file" if same_set else "leakage", owner.contents.title, owner.name)
        if exact in equal:
            continue
        text = f"like {partner.name}" + ("" if same_set else f" of {partner.contents.title}")
        kind = "near-duplicate" if same_set else "near-leakage"
        owner.contents.find(kind, owner.name, f"{text}, {apart} of 64 bits differ", row=owner.row)


_EQUAL = ("duplicate-file", "leakage")


def _pairs(values: np.ndarray, bits: int) -> Iterator[tuple[int, int, int]]:
    """(i, j, distance) of all pairs i < j at most ``bits`` apart; all by all, in blocks."""
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        apart = np.bitwise_count(block[:, None] ^ values[None, start:])
        for i, j in np.argwhere(apart <= bits):
            if j > i:
                yield start + int(i), start + int(j), int(apart[i, j])
