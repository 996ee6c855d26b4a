"""Killed by SIGKILL anywhere: a download goes on where it was, an extraction is whole or not there at all."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.data.download.extract import extract
from detector.data.download.store import download
from detector.fetch import Patience, fetch, pieces
from tests.unit.prepare.loopback import Behaviour, serving

BODY = random.Random(11).randbytes(4_000_000)
SHA = hashlib.sha256(BODY).hexdigest()
QUICK = Patience(attempts=3, wait_s=0.001, timeout_s=5)
KILLS = 50


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.unit.prepare.fetch_and_die", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    return process


def kill(process: subprocess.Popen[str]) -> bool:
    """Whether it was still running."""
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1, 4])
def test_fifty_kills_at_random_offsets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    connections: int,
) -> None:
    """Half of the kills for one connection, half for four; each is resumed to the same digest."""
    monkeypatch.setattr(pieces, "LEAST_PIECE", 256 << 10)
    chance, extra = random.Random(connections), []
    for kill_number in range(KILLS // 2):
        target = tmp_path / f"{kill_number}.zip"
        # Paced, so that what lies in the buffers of this machine's sockets does not count as fetched twice.
        behaviour = Behaviour({"data.zip": BODY}, bytes_per_s=40e6)
        offset, victim = chance.randrange(1, len(BODY) - 400_000), []

        def watch(sent: int, offset: int = offset, victim: list = victim) -> None:
            if sent >= offset and victim:
                victim[0].kill()

        behaviour.watch = watch
        with serving(behaviour) as url:
            words = f"{url}/data.zip", str(target), f"sha256:{SHA}", str(connections)
            victim.append(start("fetch", *words))
            victim[0].wait(timeout=20)
            assert kill(victim[0])
            assert not target.exists()
            behaviour.watch = None
            fetch(words[0], target, checksum=words[2], connections=connections, patience=QUICK)
            assert hashlib.sha256(target.read_bytes()).hexdigest() == SHA
            extra.append(behaviour.sent - len(BODY))
    assert {path.suffix for path in tmp_path.iterdir()} == {".zip"}
    middle = sorted(extra)[len(extra) // 2]
    print(f"{connections} connections: bytes sent twice per kill: median {middle}, most {max(extra)}")
    # What lay in the buffers of each connection.
    assert middle < connections * (512 << 10)


@pytest.mark.parametrize("connections", [1, 4])
def test_fifty_cuts_at_random_offsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    monkeypatch.setattr(pieces, "LEAST_PIECE", 64 << 10)
    chance = random.Random(connections)
    for cut_number in range(KILLS):
        behaviour = Behaviour({"data.zip": BODY[:500_000]}, cuts=[chance.randrange(1, 500_000)])
        digest = hashlib.sha256(BODY[:500_000]).hexdigest()
        with serving(behaviour) as url:
            path = fetch(
                f"{url}/data.zip", tmp_path / f"{cut_number}.zip", checksum=f"sha256:{digest}",
                connections=connections, patience=QUICK,
            )  # fmt: skip
            assert path.read_bytes() == BODY[:500_000]


def tree_of_pictures(prefix: str, count: int, seed: int) -> dict[str, bytes]:
    chance = random.Random(seed)
    return {
        f"{prefix}/{number:012d}.jpg": chance.randbytes(chance.randrange(200_000)) for number in range(count)
    }


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tape:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tape.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar"])
def test_killed_extraction_leaves_nothing_half_done(tmp_path: Path, pack: object) -> None:
    files = tree_of_pictures("VOCdevkit/VOC2007/JPEGImages", 300, 1)
    archive = tmp_path / "archive"
    archive.write_bytes(pack(files))  # type: ignore[operator]
    begun = time.monotonic()
    whole = digests(extract(archive, tmp_path / "whole"))
    span, chance, killed = time.monotonic() - begun, random.Random(2), 0
    for _ in range(6):
        process = start("extract", str(archive), str(tmp_path / "out"))
        time.sleep(chance.random() * span)
        killed += kill(process)
        if (tmp_path / "out").exists():
            assert digests(tmp_path / "out") == whole
            shutil.rmtree(tmp_path / "out")
        # A file that the kill left half written must not survive.
        left = sorted((tmp_path / ".out.unfinished").rglob("*.jpg"))
        for path in left[-1:]:
            path.write_bytes(path.read_bytes()[:-7])
    extract(archive, tmp_path / "out")
    assert digests(tmp_path / "out") == whole
    assert killed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "out", "whole"]


@pytest.fixture
def coco(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A source file for three archives on a server, and the digests of what they hold."""
    trees = [tree_of_pictures("train2017", 60, 1), tree_of_pictures("val2017", 30, 2)]
    trees.append({"annotations/instances_val2017.json": b"{}" * 300_000})
    files = {f"{number}.zip": zipped(tree) for number, tree in enumerate(trees)}
    with serving(Behaviour(files, bytes_per_s=60e6)) as url:
        lines = ["dataset: coco", "archives:"]
        for name, content in files.items():
            lines += [f"  - url: {url}/{name}", f"    sha256: {hashlib.sha256(content).hexdigest()}"]
        (tmp_path / "coco.yaml").write_text("\n".join(lines))
        whole = {name: content for tree in trees for name, content in tree.items()}
        yield tmp_path / "coco.yaml", {k: hashlib.sha256(v).hexdigest() for k, v in whole.items()}


@pytest.mark.slow
def test_killed_data_set_is_whole_or_not_there(tmp_path: Path, coco: tuple[Path, dict[str, str]]) -> None:
    source, whole = coco
    place, chance, killed = tmp_path / "store/coco", random.Random(5), 0
    for _ in range(8):
        process = start("download", "coco", str(tmp_path / "store"), str(source))
        time.sleep(chance.random() * 0.3)
        killed += kill(process)
        if place.exists():
            break
    download("coco", tmp_path / "store", source=source, patience=QUICK)
    found = digests(place)
    assert {name: sha for name, sha in found.items() if not name.startswith((".archives", "source"))} == whole
    assert killed
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [".coco.lock", "coco"]
