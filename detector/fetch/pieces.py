"""What of an unfinished file is here: a part file beside a record of its pieces.

Several connections fill several pieces at once, each from its start on. The record is updated after every
write, so that a process killed anywhere has lost nothing but what was on the wire.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.errors import MachineError

# A piece is not split below twice this: a new connection costs some round trips.
LEAST_PIECE = 8 << 20
# Both divide a memory page, so that a kill never leaves half a row behind.
HEAD_BYTES, ROW_BYTES = 1024, 64


@dataclass(eq=False)
class Piece:
    """Bytes [start, end) of the file; those before ``done`` are here.

    Attributes:
        end: None while the length of the file is unknown.
        owned: a connection fills it.
    """

    start: int
    end: int | None
    done: int
    owned: bool = False

    @property
    def left(self) -> int:
        """Bytes that are missing; 1 while the end is unknown."""
        return 1 if self.end is None else self.end - self.done

    def row(self) -> bytes:
        """Its row in the record."""
        return f"{self.start:>20} {self.end or 0:>20} {self.done:>20}\n".encode().rjust(ROW_BYTES)


class Pieces:
    """The part file and its record; safe to use from several threads.

    Args:
        part: the part file; it and ``<part>.record`` are read if they fit each other.

    Attributes:
        total: bytes of the whole file, None while unknown.
        tag: the server's ETag or date of the file, by which a later try knows that it is still the same.
        stopped: nothing more is written.
    """

    def __init__(self, part: Path) -> None:
        self.part = part
        self.record = part.with_name(part.name + ".record")
        self.lock = threading.RLock()
        self.wake = threading.Condition(self.lock)
        self.total: int | None = None
        self.tag = ""
        self.stopped = False
        self._rows: list[Piece] = []
        self._data = self._table = -1
        if not self._read():
            self.restart()

    @property
    def here(self) -> int:
        """Bytes that are here."""
        with self.lock:
            return sum(piece.done - piece.start for piece in self._rows)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        with self.lock:
            return bool(self._rows) and all(piece.left <= 0 for piece in self._rows)

    def restart(self) -> None:
        """Forget what is here: the file is another one, or of unknown length."""
        with self.lock:
            self._close()
            self.record.unlink(missing_ok=True)
            self.part.unlink(missing_ok=True)
            self.total, self.tag, self.stopped = None, "", False
            self._rows = [Piece(0, None, 0)]

    def begin(self, piece: Piece, total: int | None, tag: str) -> None:
        """Open the files for a fresh transfer that fills the only ``piece``.

        Args:
            piece: from ``take``.
            total: bytes of the file, None when the server does not say; then there is no record.
            tag: see the class.
        """
        with self.lock:
            self._close()
            self.record.unlink(missing_ok=True)
            self.total, self.tag, piece.end, piece.done = total, tag, total, 0
            self._data = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            if total is not None:
                os.ftruncate(self._data, total)
                head = json.dumps({"tag": tag[:700], "total": total}).encode().ljust(HEAD_BYTES)
                # Renamed when whole; always the same name, so that a kill leaves no litter.
                new = self.record.with_suffix(".new")
                new.write_bytes(head + piece.row())
                new.replace(self.record)
                self._table = os.open(self.record, os.O_RDWR | os.O_CLOEXEC)

    def take(self) -> Piece | None:
        """A piece to fill, for the caller alone; None when nothing is left to take.

        When every piece has its connection, the one with most left is split.
        """
        with self.lock:
            if self.stopped:
                return None
            free = [piece for piece in self._rows if not piece.owned and piece.left > 0]
            piece = free[0] if free else self._split()
            if piece is not None:
                piece.owned = True
            return piece

    def release(self, piece: Piece) -> None:
        """Give a piece back, finished or not."""
        with self.lock:
            piece.owned = False

    def write(self, piece: Piece, chunk: bytes) -> bool:
        """Add the next bytes of a piece; those past its end are dropped.

        Returns:
            Whether more are wanted.

        Raises:
            MachineError: the disk is full or broken.
        """
        # Under the lock, so that nobody closes or cuts the file meanwhile: a copy to memory, as a rule.
        with self.lock:
            if self.stopped:
                return False
            try:
                wanted = chunk if piece.end is None else chunk[: piece.end - piece.done]
                view = memoryview(wanted)
                while view:
                    count = os.pwrite(self._data, view, piece.done)
                    piece.done, view = piece.done + count, view[count:]
                self._save(piece)
            except OSError as error:
                raise MachineError(
                    f"{self.part}: cannot be written ({error.strerror or error}). Free space or correct the "
                    "rights and try again; what came is kept."
                ) from error
            return piece.left > 0

    def cut(self, piece: Piece, total: int) -> None:
        """The file turned out to end at ``total``, where ``piece`` is: the server had claimed more."""
        with self.lock:
            piece.end = self.total = total
            os.ftruncate(self._data, total)
            self._save(piece)

    def end(self, piece: Piece) -> None:
        """A transfer of unknown length is over."""
        with self.lock:
            piece.end = self.total = piece.done

    def stop(self) -> None:
        """End all writing; waiting threads wake up."""
        with self.lock:
            self.stopped = True
            self.wake.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, unless stopped."""
        with self.lock:
            self.wake.wait_for(lambda: self.stopped, seconds)

    def close(self, *, sync: bool = False) -> None:
        """Close the files; with ``sync`` the bytes are on the disk afterwards."""
        with self.lock:
            if sync and self._data >= 0:
                os.fsync(self._data)
            self._close()

    def _split(self) -> Piece | None:
        widest = max(self._rows, key=lambda piece: piece.left, default=None)
        if widest is None or widest.end is None or widest.left < 2 * LEAST_PIECE or self._table < 0:
            return None
        middle = widest.done + widest.left // 2
        new = Piece(middle, widest.end, middle)
        # The new row first: a kill in between leaves an overlap, not a gap.
        self._rows.append(new)
        self._save(new)
        widest.end = middle
        self._save(widest)
        return new

    def _save(self, piece: Piece) -> None:
        if self._table >= 0:
            os.pwrite(self._table, piece.row(), HEAD_BYTES + ROW_BYTES * self._rows.index(piece))

    def _read(self) -> bool:
        """Take up what an earlier try left; False when there is nothing that can be trusted."""
        try:
            content = self.record.read_bytes()
            head: dict[str, Any] = json.loads(content[:HEAD_BYTES])
            rows = [content[at : at + ROW_BYTES].split() for at in range(HEAD_BYTES, len(content), ROW_BYTES)]
            self.total, self.tag = int(head["total"]), str(head["tag"])
            self._rows = [Piece(int(start), int(end), int(done)) for start, end, done in rows]
            if self.part.stat().st_size != self.total or not self._sound():
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self._data = os.open(self.part, os.O_RDWR | os.O_CLOEXEC)
        self._table = os.open(self.record, os.O_RDWR | os.O_CLOEXEC)
        return True

    def _sound(self) -> bool:
        """Whether the pieces cover the file, after undoing the overlap that a kill within a split leaves."""
        rows = sorted(self._rows, key=lambda row: row.start)
        for piece, following in itertools.pairwise(rows):
            if piece.end is not None and piece.done <= following.start < piece.end:
                piece.end = following.start
        edges = [0, *(piece.end for piece in rows)]
        whole = [piece.start == edge for piece, edge in zip(rows, edges, strict=False)]
        inside = [piece.end is not None and piece.start <= piece.done <= piece.end for piece in rows]
        return all(whole) and all(inside) and edges[-1] == self.total

    def _close(self) -> None:
        for descriptor in (self._data, self._table):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._table = -1
