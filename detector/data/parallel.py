"""Running a function over many items in worker processes, results in the order of the items."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    total = len(items)
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
