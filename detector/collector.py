"""Python's cycle collector, held back while large files are read. Standard library only."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Hold the cycle collector back while millions of objects without cycles are made; it is always set back.

    It would walk over all of them again and again: reading COCO's 118,000 images and 860,000 annotations
    takes a third more processor time with it.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
