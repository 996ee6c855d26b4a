"""Work of one thread ahead of another: decoding while the model runs. Standard library only."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Ahead(Generic[T]):
    """Items between the two threads, and how the work ended.

    Args:
        items: iterated in the thread.
        depth: how many items wait at most.
        newest: let a new item replace the oldest one instead of waiting.
    """

    def __init__(self, items: Iterable[T], depth: int, *, newest: bool) -> None:
        self.items, self.depth, self.newest = items, depth, newest
        self.ready: deque[T] = deque()
        self.changed = threading.Condition()
        self.ended = self.wanted = False
        self.error: BaseException | None = None

    def fill(self) -> None:
        """Iterate; what is raised is kept for the consumer."""
        self.wanted = True
        try:
            for item in self.items:
                with self.changed:
                    if self.newest and len(self.ready) >= self.depth:
                        self.ready.popleft()
                    self.changed.wait_for(lambda: len(self.ready) < self.depth or not self.wanted)
                    if not self.wanted:
                        return
                    self.ready.append(item)
                    self.changed.notify_all()
        except BaseException as error:  # any error is raised again where the items are used
            self.error = error
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def take(self) -> Iterator[T]:
        """The items in order; raises what iterating raised."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.ready or self.ended)
                if not self.ready:
                    break
                item = self.ready.popleft()
                self.changed.notify_all()
            yield item
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Say that no more items are wanted."""
        with self.changed:
            self.wanted = False
            self.changed.notify_all()


def read_ahead(items: Iterable[T], depth: int, *, newest: bool = False) -> Iterator[T]:
    """The items in order, up to ``depth`` of them made in a thread before they are asked for.

    The thread ends with the items, or when this iterator is closed; an error in it is raised here, in the
    place of the item.

    Args:
        items: iterated in the thread, from when the first item is asked for.
        depth: at least 1.
        newest: of a live source: when ``depth`` items wait, the oldest is dropped, not the source held up.
    """
    ahead = _Ahead(items, depth, newest=newest)
    thread = threading.Thread(target=ahead.fill, name="read ahead", daemon=True)
    thread.start()
    try:
        yield from ahead.take()
    finally:
        ahead.stop()
        thread.join()
