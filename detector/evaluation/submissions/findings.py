"""The faults of a submission, collected by kind: the first few of each, and how many there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Findings:
    """What a server would refuse, and what it would accept but a user should know.

    Attributes:
        shown: places shown of each kind of fault; all are counted.
        counts: number of faults by kind, in the order found.
        places: the first ``shown`` messages of each kind.
        notes: remarks that refuse nothing.
    """

    shown: int = 3
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, message: str) -> None:
        """Count a fault of a kind such as 'image id'; its message says where, what was found and expected."""
        self.counts[kind] += 1
        shown = self.places.setdefault(kind, [])
        if len(shown) < self.shown:
            shown.append(message)

    def __bool__(self) -> bool:
        """Whether there is a fault."""
        return bool(self.counts)

    def lines(self) -> list[str]:
        """One line per fault shown, and one per kind that has more."""
        lines = []
        for kind, count in self.counts.items():
            shown = self.places[kind]
            lines += [f"{kind}: {message}" for message in shown]
            if count > len(shown):
                lines.append(f"{kind}: and {count - len(shown)} more ({count} in all)")
        return lines
