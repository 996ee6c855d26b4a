"""Several connections for one file, and what a server can do to them."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.errors import DatasetError, MachineError
from detector.fetch import Patience, fetch, pieces
from tests.unit.prepare.loopback import Behaviour, serving

BODY = random.Random(7).randbytes(2_000_000)
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()
QUICK = Patience(attempts=3, wait_s=0.001, timeout_s=5)
Server = tuple[str, Behaviour]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(pieces, "LEAST_PIECE", 64 << 10)
    behaviour = Behaviour({"data.zip": BODY})
    with serving(behaviour) as url:
        yield f"{url}/data.zip", behaviour


def get(server: Server, folder: Path, **options: object) -> Path:
    options = {"checksum": SHA, "connections": 4, "patience": QUICK, **options}
    return fetch(server[0], folder / "data.zip", **options)  # type: ignore[arg-type]


def interrupt(server: Server, folder: Path, at: int, **options: object) -> None:
    """Leave a download unfinished that has at least ``at`` bytes."""

    def stop(done: int, total: int) -> None:
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, folder, progress=stop, **options)
    server[1].seen.clear()
    server[1].sent = 0


def test_parts_come_at_once_and_fit_together(server: Server, tmp_path: Path) -> None:
    server[1].bytes_per_s = 4e6
    assert get(server, tmp_path).read_bytes() == BODY
    ranges = [wanted for _, wanted in server[1].seen]
    assert ranges[0] is None
    assert len(ranges) >= 4
    assert len(set(ranges)) == len(ranges)
    assert {path.name for path in tmp_path.iterdir()} == {"data.zip"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("announces", False), ("ranges", False), ("tag", "")],
    ids=["announces-nothing", "cannot", "no-tag"],
)
def test_servers_that_know_less_still_serve(server: Server, tmp_path: Path, name: str, value: object) -> None:
    setattr(server[1], name, value)
    assert get(server, tmp_path).read_bytes() == BODY


def test_without_tag_and_digest_there_is_one_connection(server: Server, tmp_path: Path) -> None:
    server[1].tag = ""
    assert get(server, tmp_path, checksum=None).read_bytes() == BODY
    assert len(server[1].seen) == 1


def test_server_that_allows_few_connections(server: Server, tmp_path: Path) -> None:
    server[1].most, server[1].bytes_per_s = 2, 4e6
    assert get(server, tmp_path, connections=6).read_bytes() == BODY


def test_cuts_on_all_connections(server: Server, tmp_path: Path) -> None:
    server[1].cuts = random.Random(3).sample(range(1, 400_000), 20)
    patience = Patience(attempts=30, wait_s=0.001, timeout_s=5)
    assert get(server, tmp_path, patience=patience).read_bytes() == BODY
    assert len(server[1].cuts) < 10


@pytest.mark.parametrize("connections", [1, 3])
def test_interrupted_download_goes_on(server: Server, tmp_path: Path, connections: int) -> None:
    interrupt(server, tmp_path, 700_000)
    calls: list[tuple[int, int]] = []
    get(server, tmp_path, connections=connections, progress=lambda *call: calls.append(call))
    assert (tmp_path / "data.zip").read_bytes() == BODY
    assert calls[0][0] >= 700_000
    assert calls == sorted(calls)
    assert calls[-1] == (len(BODY), len(BODY))
    assert None not in [wanted for _, wanted in server[1].seen]


@pytest.mark.parametrize("ranges", [True, False], ids=["if-range", "ignores-ranges"])
def test_changed_file_is_not_glued_to_the_old_one(server: Server, tmp_path: Path, ranges: bool) -> None:
    interrupt(server, tmp_path, 700_000, checksum=None)
    new = random.Random(8).randbytes(1_900_000)
    server[1].files["data.zip"], server[1].tag, server[1].ranges = new, '"two"', ranges
    assert get(server, tmp_path, checksum=None).read_bytes() == new


@pytest.mark.parametrize("size", [1_900_000, 2_000_000], ids=["other-size", "same-size"])
def test_server_that_ignores_if_range_is_found_out(server: Server, tmp_path: Path, size: int) -> None:
    interrupt(server, tmp_path, 700_000, checksum=None)
    new = random.Random(8).randbytes(size)
    server[1].files["data.zip"], server[1].tag, server[1].heeds_if_range = new, '"two"', False
    assert get(server, tmp_path, checksum=None).read_bytes() == new


def test_without_a_tag_another_file_is_found_out_by_the_digest(server: Server, tmp_path: Path) -> None:
    server[1].tag = ""
    interrupt(server, tmp_path, 700_000)
    new = random.Random(8).randbytes(1_900_000)
    server[1].files["data.zip"] = new
    digest = "sha256:" + hashlib.sha256(new).hexdigest()
    assert get(server, tmp_path, checksum=digest).read_bytes() == new


@pytest.mark.parametrize("spoil", ["cut", "garbage", "gap", "gone"])
def test_spoilt_record_means_a_new_start(server: Server, tmp_path: Path, spoil: str) -> None:
    interrupt(server, tmp_path, 700_000)
    record = tmp_path / "data.zip.part.record"
    content = record.read_bytes()
    head, rows = content[: pieces.HEAD_BYTES], content[pieces.HEAD_BYTES :]
    assert json.loads(head)["total"] == len(BODY)
    changed = {
        "cut": head + rows[:40],
        "garbage": b"\xff" * len(content),
        "gap": head + rows[pieces.ROW_BYTES :],
        "gone": b"",
    }
    record.write_bytes(changed[spoil])
    assert get(server, tmp_path, checksum=None).read_bytes() == BODY


def test_part_file_without_its_record_means_a_new_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip.part").write_bytes(b"x" * 500_000)
    assert get(server, tmp_path, checksum=None).read_bytes() == BODY


def recorded(folder: Path, *rows: tuple[int, int, int]) -> pieces.Pieces:
    """What is made of a part file of 1000 bytes with these rows (start, end, done) in its record."""
    (folder / "x.part").write_bytes(bytes(1000))
    head = json.dumps({"tag": "t", "total": 1000}).encode().ljust(pieces.HEAD_BYTES)
    table = b"".join(pieces.Piece(*row).row() for row in rows)
    (folder / "x.part.record").write_bytes(head + table)
    return pieces.Pieces(folder / "x.part")


def test_overlap_of_a_killed_split_is_undone(tmp_path: Path) -> None:
    found = recorded(tmp_path, (0, 1000, 300), (650, 1000, 650))
    taken = [found.take(), found.take()]
    found.close()
    assert [(piece.done, piece.end) for piece in taken if piece] == [(300, 650), (650, 1000)]


@pytest.mark.parametrize(
    "rows",
    [[(100, 1000, 100)], [(0, 400, 10), (500, 1000, 500)], [(0, 900, 0)], [(0, 1000, 1001)], []],
    ids=["no-start", "gap", "no-end", "too-much", "empty"],
)
def test_record_that_does_not_cover_the_file_is_not_trusted(
    tmp_path: Path, rows: list[tuple[int, int, int]]
) -> None:
    found = recorded(tmp_path, *rows)
    assert found.total is None
    assert found.here == 0
    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_too_small_is_told_before_the_first_byte(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(MachineError, match=r"found 0\.0 GB free, expected at least 0\.0 GB for data\.zip"):
        get(server, tmp_path)
    assert not (tmp_path / "data.zip.part").exists()


def test_full_disk_keeps_what_came(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = came = 0
    real = pieces.os.pwrite

    def full(descriptor: int, data: bytes, at: int) -> int:
        nonlocal written, came
        written += len(data)
        if len(data) == pieces.ROW_BYTES:
            return real(descriptor, data, at)
        if written > 600_000:
            raise OSError(28, "No space left on device")
        came += len(data)
        return real(descriptor, data, at)

    monkeypatch.setattr(pieces.os, "pwrite", full)
    with pytest.raises(
        MachineError, match=r"cannot be written \(No space left on device\).*what came is kept"
    ):
        get(server, tmp_path)
    monkeypatch.setattr(pieces.os, "pwrite", real)
    calls: list[int] = []
    get(server, tmp_path, progress=lambda done, _: calls.append(done))
    assert (tmp_path / "data.zip").read_bytes() == BODY
    assert 0 < came <= calls[0] < 700_000, (came, calls[0])


def test_server_says_how_long_to_wait(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(pieces.Pieces, "pause", lambda self, seconds: waited.append(seconds))
    server[1].answers, server[1].retry_after = [503, 429], "7"
    get(server, tmp_path)
    assert waited[:2] == [7.0, 7.0]


def test_pauses_double(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(pieces.Pieces, "pause", lambda self, seconds: waited.append(seconds))
    server[1].answers = [503] * 9
    with pytest.raises(DatasetError, match="503"):
        get(server, tmp_path, patience=Patience(attempts=5, wait_s=1.0, timeout_s=5))
    assert waited == [1.0, 2.0, 4.0, 8.0]


def test_silent_server_is_given_up(server: Server, tmp_path: Path) -> None:
    silence = threading.Event()
    server[1].watch = lambda sent: silence.wait(3) if sent > 300_000 else None
    with pytest.raises(DatasetError, match=r"timed out\) after \d+ bytes.*what came is kept"):
        get(server, tmp_path, connections=1, patience=Patience(attempts=1, wait_s=0, timeout_s=0.2))
    silence.set()


def test_error_in_the_progress_callback_reaches_the_caller(server: Server, tmp_path: Path) -> None:
    server[1].bytes_per_s = 4e6

    def broken(done: int, total: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        get(server, tmp_path, progress=broken)


@pytest.mark.slow
def test_several_connections_are_faster_where_each_is_limited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a limit the server of this test is the bottleneck, in its one interpreter."""
    body, rates = random.Random(9).randbytes(48 << 20), {}
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    for limit in (20e6, 0.0):
        behaviour = Behaviour({"data.zip": body}, bytes_per_s=limit)
        with serving(behaviour) as url:
            for connections in (1, 2, 4):
                begun = time.monotonic()
                target = tmp_path / f"{limit}-{connections}.zip"
                fetch(f"{url}/data.zip", target, checksum=digest, connections=connections, patience=QUICK)
                rates[limit, connections] = len(body) / 1e6 / (time.monotonic() - begun)
    with capsys.disabled():
        print(
            "".join(
                f"\n{c} connections, {lim / 1e6:.0f} MB/s each: {r:.1f} MB/s" for (lim, c), r in rates.items()
            )
        )
    assert rates[20e6, 4] > 2 * rates[20e6, 1]
