"""Running a function over many items in worker processes, results in the order of the items.

A caller that has other workers, such as a cluster's, puts its own way of running in place with ``spread_by``.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: runs a picklable function over items; gives the results in the order of the items
Spread = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
_SPREAD: ContextVar[Spread | None] = ContextVar("spread", default=None)


@contextmanager
def spread_by(spread: Spread) -> Iterator[None]:
    """Let ``run_ordered`` run everything by ``spread`` while the block runs, in place of processes."""
    token = _SPREAD.set(spread)
    try:
        yield
    finally:
        _SPREAD.reset(token)


def run_ordered(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in order; a worker's error is raised here and ends the work.

    Args:
        function: picklable when ``processes`` is above 1.
        items: what to work on.
        processes: worker processes; 1 works in this process.
        progress: called with (items done, items in all) after each.
    """
    total, spread = len(items), _SPREAD.get()
    if spread is not None:
        for done, result in enumerate(spread(function, items), start=1):
            if progress:
                progress(done, total)
            yield result
        return
    if processes <= 1 or total <= 1:
        for done, item in enumerate(items, start=1):
            result = function(item)
            if progress:
                progress(done, total)
            yield result
        return
    chunk = max(1, min(16, total // (processes * 4)))
    # Fresh interpreters: a forked child of a process with threads can hang.
    with ProcessPoolExecutor(min(processes, total), mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for done, result in enumerate(pool.map(function, items, chunksize=chunk), start=1):
                if progress:
                    progress(done, total)
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
