"""One flipped bit anywhere in a download: found by the digest, and without one by the archive's own sums."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from pathlib import Path

import pytest

from detector.data.download.store import download
from detector.errors import DatasetError
from detector.fetch import Patience, fetch
from tests.unit.prepare.loopback import Behaviour, serving

BODY = random.Random(21).randbytes(100_000)
FLIPS = random.Random(22).sample(range(len(BODY)), 100)
QUICK = Patience(attempts=2, wait_s=0.001, timeout_s=5)


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_hundred_of_a_hundred_flips_are_found(tmp_path: Path, kind: str) -> None:
    checksum = f"{kind}:{hashlib.new(kind, BODY).hexdigest()}"
    behaviour, found = Behaviour({"data.zip": BODY}), 0
    with serving(behaviour) as url:
        for flip in FLIPS:
            behaviour.always_flip = flip
            with pytest.raises(DatasetError, match=f"came with {kind} [0-9a-f]+; expected {kind}"):
                fetch(f"{url}/data.zip", tmp_path / "data.zip", checksum=checksum, patience=QUICK)
            found += not list(tmp_path.iterdir())
    assert found == 100


def test_a_flip_on_the_way_is_mended_by_fetching_again(tmp_path: Path) -> None:
    checksum = "sha256:" + hashlib.sha256(BODY).hexdigest()
    behaviour, mended = Behaviour({"data.zip": BODY}), 0
    with serving(behaviour) as url:
        for number, flip in enumerate(FLIPS):
            behaviour.flips = [flip]
            target = tmp_path / f"{number}.zip"
            mended += fetch(f"{url}/data.zip", target, checksum=checksum, patience=QUICK).read_bytes() == BODY
    assert mended == 100
    assert len(behaviour.seen) == 200


def test_flips_in_an_archive_without_a_digest_never_change_a_file(tmp_path: Path) -> None:
    """Of COCO-stuff no digest is published: the zip's own sums must find what matters."""
    files = {f"val2017/{n}.png": random.Random(n).randbytes(3000) for n in range(20)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    archive = stream.getvalue()
    behaviour, refused = Behaviour({"maps.zip": archive}), 0
    flips = random.Random(23).sample(range(len(archive)), 100)
    with serving(behaviour) as url:
        (tmp_path / "coco.yaml").write_text(
            f"dataset: coco\narchives:\n- {{url: '{url}/maps.zip', into: stuffthingmaps}}\n"
        )
        for flip in flips:
            behaviour.always_flip = flip
            store = tmp_path / f"store{flip}"
            try:
                place = download("coco", store, source=tmp_path / "coco.yaml", patience=QUICK)
            except DatasetError:
                refused += not (store / "coco").exists()
            else:
                # A date, a right or a name: the name is the one thing that nothing protects.
                found = {path.read_bytes() for path in (place / "stuffthingmaps").rglob("*.*")}
                assert found <= set(files.values())
    assert refused >= 90


def test_damaged_archive_without_a_digest_is_fetched_once_more(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        bundle.writestr("val2017/1.png", BODY)
    behaviour = Behaviour({"maps.zip": stream.getvalue()}, flips=[5000])
    with serving(behaviour) as url:
        (tmp_path / "coco.yaml").write_text(f"dataset: coco\narchives: [{{url: '{url}/maps.zip'}}]\n")
        place = download("coco", tmp_path / "store", source=tmp_path / "coco.yaml", patience=QUICK)
    assert (place / "val2017/1.png").read_bytes() == BODY
    assert len(behaviour.seen) == 2


def test_archive_that_is_damaged_on_the_server_too_is_given_up_and_not_kept(tmp_path: Path) -> None:
    with serving(Behaviour({"maps.zip": b"<html>please log in</html>"})) as url:
        (tmp_path / "coco.yaml").write_text(f"dataset: coco\narchives: [{{url: '{url}/maps.zip'}}]\n")
        with pytest.raises(
            DatasetError, match=r"maps\.zip: came damaged twice \(truncated header\).*--mirror"
        ):
            download("coco", tmp_path / "store", source=tmp_path / "coco.yaml", patience=QUICK)
    assert not list(tmp_path.rglob("maps.zip"))
