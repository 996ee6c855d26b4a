"""One connection: asks for a piece of the file and writes what comes."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detector.fetch.checks import require_space
from detector.fetch.pieces import Piece, Pieces

CHUNK = 1 << 20
# Answers that may be different next time.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
BROKEN_OFF = (OSError, http.client.HTTPException)
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Patience:
    """How long to keep trying.

    Attributes:
        attempts: tries in a row that bring no new byte before giving up.
        wait_s: pause after the first failure; doubles up to a minute.
        timeout_s: silence of the server that counts as a failure.
    """

    attempts: int = 6
    wait_s: float = 1.0
    timeout_s: float = 30.0


PATIENCE = Patience()


class BrokenOffError(Exception):
    """The transfer ended early; what came is kept.

    Attributes:
        wait_s: the pause that the server asks for, 0 when it does not.
    """

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class RefusedError(Exception):
    """An answer that will not change."""


class AfreshError(Exception):
    """What is here cannot be continued.

    Attributes:
        ranges: whether the server can send a part of a file at all.
    """

    def __init__(self, message: str, *, ranges: bool) -> None:
        super().__init__(message)
        self.ranges = ranges


@dataclass(frozen=True)
class Wish:
    """What is to be fetched.

    Attributes:
        url: http or https.
        size: expected bytes, None when not known.
        provable: a digest is known, by which a mixture of two files would be found out.
        timeout_s: see ``Patience``.
        progress: called with (bytes here, bytes in all).
    """

    url: str
    size: int | None
    provable: bool
    timeout_s: float
    progress: Callable[[int, int], None] | None


def fill(wish: Wish, pieces: Pieces, piece: Piece, *, known: Callable[[], None]) -> None:
    """Fill a piece over one connection.

    Args:
        wish: what to fetch.
        pieces: where to.
        piece: taken by the caller.
        known: called when the length is known and the server can send parts.

    Raises:
        BrokenOffError: it ended early.
        RefusedError: the server will not give the file, or gives another one.
        AfreshError: the file changed since the last try, or the server cannot continue.
        MachineError: no room on the disk.
    """
    fresh = pieces.total is None
    if not fresh and not pieces.tag and not wish.provable:
        raise AfreshError("the server gives no sign by which the file is known again", ranges=True)
    if fresh:
        piece.done = 0
    with _answer(wish, pieces, piece, fresh) as response:
        if response is None:
            return
        if fresh:
            _begin(wish, pieces, piece, response.headers)
        else:
            _same_file(pieces, piece, response)
        if wish.progress and pieces.total:
            wish.progress(pieces.here, pieces.total)
        divisible = not fresh or response.headers.get("Accept-Ranges", "") == "bytes"
        if pieces.total and divisible and (pieces.tag or wish.provable):
            known()
        _receive(wish, pieces, piece, response)


@contextmanager
def _answer(
    wish: Wish, pieces: Pieces, piece: Piece, fresh: bool
) -> Iterator[http.client.HTTPResponse | None]:
    """The server's answer; None when it says that the piece is complete. All its failures in our words."""
    request = urllib.request.Request(
        wish.url, headers={"User-Agent": "detector", "Accept-Encoding": "identity"}
    )
    if not fresh:
        last = "" if piece.end is None or piece.end == pieces.total else str(piece.end - 1)
        request.add_header("Range", f"bytes={piece.done}-{last}")
        if pieces.tag:
            request.add_header("If-Range", pieces.tag)
    try:
        response = urllib.request.urlopen(request, timeout=wish.timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            _judge(wish, pieces, piece, error)
        yield None
        return
    except BROKEN_OFF as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise RefusedError(
                f"{wish.url}: the server's certificate is not valid ({reason.verify_message}), expected one "
                "that is. Use another server (--mirror), or correct this machine's clock and certificates."
            ) from error
        raise BrokenOffError(f"the transfer failed ({reason})") from error
    with response:
        yield response


def _judge(wish: Wish, pieces: Pieces, piece: Piece, error: urllib.error.HTTPError) -> None:
    """Raise what an answer without the file means; return when nothing is left to come."""
    if error.code in PASSING:
        asked = error.headers.get("Retry-After", "")
        wait_s = min(float(asked), LONGEST_WAIT_S) if asked.isdigit() else 0.0
        raise BrokenOffError(f"the server answered {error.code} {error.reason}", wait_s) from error
    if error.code != 416:
        raise RefusedError(
            f"{wish.url}: the server answered {error.code} {error.reason}, expected the file. Check the "
            "address."
        ) from error
    # Nothing is left after the offset: whole, or no file of ours.
    ends = error.headers.get("Content-Range", "").rpartition("/")[2]
    if ends != str(piece.done) or piece.end != pieces.total:
        raise AfreshError("the server holds another file than before", ranges=True) from error
    pieces.cut(piece, piece.done)


def _begin(wish: Wish, pieces: Pieces, piece: Piece, headers: http.client.HTTPMessage) -> None:
    declared = headers.get("Content-Length")
    total = int(declared) if declared and declared.isdigit() else None
    if wish.size is not None and total is not None and total != wish.size:
        raise RefusedError(
            f"{wish.url}: the server offers {total} bytes, expected {wish.size}. Check the address."
        )
    folder = pieces.part.parent
    require_space(folder, total or wish.size or 0, Path(pieces.part.stem).name)
    pieces.begin(piece, total, _validator(headers))


def _same_file(pieces: Pieces, piece: Piece, response: http.client.HTTPResponse) -> None:
    """Raise unless the answer continues the piece of the very file that is here in part."""
    tag = _validator(response.headers)
    if response.status != 206:
        raise AfreshError("the server sends the file only from its start", ranges=tag != pieces.tag)
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(piece.done):
        raise AfreshError("the server sent another range than asked for", ranges=False)
    if total not in ("*", str(pieces.total)) or (tag and pieces.tag and tag != pieces.tag):
        raise AfreshError("the server holds another file than before", ranges=True)


def _receive(wish: Wish, pieces: Pieces, piece: Piece, response: http.client.HTTPResponse) -> None:
    while True:
        try:
            chunk = response.read1(CHUNK)
        except BROKEN_OFF as error:
            raise BrokenOffError(
                f"the transfer failed ({error or type(error).__name__}) after {pieces.here} bytes"
            ) from error
        if not chunk:
            break
        more = pieces.write(piece, chunk)
        if wish.progress and pieces.total:
            with pieces.lock:
                wish.progress(pieces.here, pieces.total)
        if not more:
            return
    if piece.end is None:
        pieces.end(piece)
    elif piece.left > 0:
        raise BrokenOffError(f"the connection ended after {pieces.here} of {pieces.total} bytes")


def _validator(headers: http.client.HTTPMessage) -> str:
    """Strong ETag or date of the server's file, by which a later try knows that it is still the same."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
