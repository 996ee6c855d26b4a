"""``fetch``: connections that share the pieces of a file, until it is whole or nothing helps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from detector.errors import DatasetError, DetectorError
from detector.fetch import pieces as record
from detector.fetch.checks import expected, require_space, wrong
from detector.fetch.pieces import Pieces
from detector.fetch.transfer import (
    LONGEST_WAIT_S,
    PATIENCE,
    AfreshError,
    BrokenOffError,
    Patience,
    RefusedError,
    Wish,
    fill,
)


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    connections: int = 1,
    patience: Patience = PATIENCE,
    progress: Callable[[int, int], None] | None = None,
    error: type[DetectorError] = DatasetError,
) -> Path:
    """Download ``url`` to ``target``, continuing an earlier try from ``<target>.part``.

    Args:
        url: http or https.
        target: file to write; it appears only complete and checked.
        size: expected bytes.
        checksum: expected '<algorithm>:<hex>', e.g. 'sha256:...' or 'md5:...'; the first digits are enough.
        connections: how many parts of a large file to fetch at once, where the server can send parts.
        patience: how often and how long to try.
        progress: called with (bytes here, bytes in all), from any thread but never twice at once; first of
            all with what an earlier try left; not called while the length is unknown.
        error: what is raised, by the kind of file.

    Returns:
        ``target``. A file that is there already and passes the checks is kept as it is.

    Raises:
        DetectorError: an ``error``: refused, given up, or the bytes are not the expected ones.
        MachineError: the disk is full, or too small for the file.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        said = f"{url}: found another kind of address, expected http or https. Correct the address."
        raise error(_without_login(said, url))
    if target.is_file() and (size or checksum) and not wrong(target, size, checksum):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    wish = Wish(url, size, checksum is not None, patience.timeout_s, progress)
    pieces = Pieces(target.with_name(target.name + ".part"))
    fault = ""
    try:
        # Twice: a byte may have flipped on the way.
        for _ in range(2):
            fault = _Crew(wish, pieces, patience, connections).work()
            if fault:
                break
            fault = wrong(pieces.part, size, checksum)
            if not fault:
                return _put_in_place(pieces, target)
            pieces.restart()
    except RefusedError as refused:
        raise error(_without_login(str(refused), url)) from refused
    finally:
        pieces.close()
    kept = " (what came is kept)" if pieces.here else ""
    said = (
        f"{url}: {fault}; expected {expected(size, checksum)}. Try again later{kept}, or download it "
        f"yourself to {target}."
    )
    raise error(_without_login(said, url))


def _without_login(text: str, url: str) -> str:
    """A message without the name and password that an address may hold."""
    login = urlsplit(url).netloc.rpartition("@")[0]
    for secret in (login, login.partition(":")[2]):
        text = text.replace(secret, "***") if secret else text
    return text


def _put_in_place(pieces: Pieces, target: Path) -> Path:
    pieces.close(sync=True)
    pieces.part.replace(target)
    pieces.record.unlink(missing_ok=True)
    return target


class _Crew:
    """The connections of one file. The first works in the calling thread, the others in threads of theirs."""

    def __init__(self, wish: Wish, pieces: Pieces, patience: Patience, connections: int) -> None:
        self.wish, self.pieces, self.patience = wish, pieces, patience
        self.connections = connections
        self.helpers: list[threading.Thread] = []
        self.fault = ""
        self.refused: RefusedError | None = None
        self.afresh: AfreshError | None = None
        self.crash: BaseException | None = None

    def work(self) -> str:
        """Fetch until the file is whole.

        Returns:
            Why it is not, or an empty string.

        Raises:
            RefusedError: the server's answer will not change.
            MachineError: the disk.
        """
        if self.pieces.total is not None:
            require_space(
                self.pieces.part.parent, self.pieces.total - self.pieces.here, self.pieces.part.stem
            )
        for _ in range(self.patience.attempts):
            self.fault, self.refused, self.afresh = "", None, None
            self._all_at_work()
            if self.pieces.complete:
                return ""
            if self.afresh is None:
                break
            self.connections = self.connections if self.afresh.ranges else 1
            self.pieces.restart()
        if self.refused is not None:
            raise self.refused
        return self.fault

    def _all_at_work(self) -> None:
        try:
            self._fill_pieces()
            for helper in self.helpers:
                helper.join()
        except BaseException:
            # Helpers write nothing any more; they end when their servers next say something.
            self.pieces.stop()
            raise
        finally:
            self.helpers = []
        if self.crash is not None:
            raise self.crash

    def _hire(self) -> None:
        """Start the other connections, as many as the file is worth."""
        with self.pieces.lock:
            most = (self.pieces.total or 0) // record.LEAST_PIECE
            while len(self.helpers) + 1 < min(self.connections, most) and not self.pieces.stopped:
                helper = threading.Thread(target=self._help, name="fetch", daemon=True)
                self.helpers.append(helper)
                helper.start()

    def _help(self) -> None:
        try:
            self._fill_pieces()
        except BaseException as error:
            self.crash = error
            self.pieces.stop()

    def _fill_pieces(self) -> None:
        """Fill one piece after the other; give up after too many failures in a row that bring nothing."""
        failures = 0
        while piece := self.pieces.take():
            before, wait_s = piece.done, 0.0
            try:
                fill(self.wish, self.pieces, piece, known=self._hire)
                failures = 0
                continue
            except BrokenOffError as broken:
                self.fault, wait_s = str(broken), broken.wait_s
                failures = 1 if piece.done > before else failures + 1
            except RefusedError as refused:
                # The others may still be served: some servers allow few connections.
                self.refused, self.fault = refused, str(refused)
                return
            except AfreshError as afresh:
                self.afresh, self.fault = afresh, self.fault or str(afresh)
                self.pieces.stop()
                return
            finally:
                self.pieces.release(piece)
            if failures >= self.patience.attempts:
                return
            pause = self.patience.wait_s * 2 ** (failures - 1)
            self.pieces.pause(min(max(pause, wait_s), LONGEST_WAIT_S))
