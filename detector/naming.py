"""Names near a misspelt one, for errors. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def close_names(name: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.6) -> list[str]:
    """The names most like ``name``, best first, whatever the case of their letters.

    Args:
        name: what was found.
        known: what there is.
        count: how many at most.
        cutoff: least likeness in [0, 1].
    """
    folded = {item.casefold(): item for item in known}
    return [folded[hit] for hit in difflib.get_close_matches(name.casefold(), folded, n=count, cutoff=cutoff)]
