"""The store: drawn once, drawn anew for another recipe, never over something of the user's."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.data.download import DATASETS, default_store, download, load_source
from detector.data.download.sources import source_file
from detector.errors import DatasetError

TINY = "dataset: sample\nrecipe: {seed: 1, train: 2, val: 1, test: 1, height: 64, width: 64}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "sample.yaml"
    path.write_text(TINY)
    return path


def test_sample_is_drawn_and_stamped(tmp_path: Path, recipe: Path) -> None:
    place = download("sample", tmp_path / "store", source=recipe)
    assert place == tmp_path / "store" / "sample"
    stamp = json.loads((place / "source.json").read_text())
    assert (stamp["dataset"], stamp["files"], stamp["recipe"]["seed"]) == ("sample", 13, 1)
    assert sorted(p.name for p in place.iterdir()) == ["gtFine", "leftImg8bit", "source.json"]
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == [".sample.lock", "sample"]


def test_second_call_draws_nothing(tmp_path: Path, recipe: Path) -> None:
    place = download("sample", tmp_path, source=recipe)
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*")}
    download("sample", tmp_path, source=recipe)
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*")} == before


def test_other_recipe_draws_anew(tmp_path: Path, recipe: Path) -> None:
    place = download("sample", tmp_path, source=recipe)
    recipe.write_text(TINY.replace("val: 1", "val: 2"))
    download("sample", tmp_path, source=recipe)
    assert len(list(place.glob("leftImg8bit/val/*/*.png"))) == 2


def test_lost_file_is_drawn_again(tmp_path: Path, recipe: Path) -> None:
    place = download("sample", tmp_path, source=recipe)
    lost = next(place.glob("leftImg8bit/train/*/*.png"))
    content = lost.read_bytes()
    lost.unlink()
    download("sample", tmp_path, source=recipe)
    assert lost.read_bytes() == content


def test_users_folder_is_not_drawn_over(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "mine.txt").write_text("keep")
    with pytest.raises(DatasetError, match="was not made from a recipe"):
        download("sample", tmp_path, source=recipe)
    assert (tmp_path / "sample" / "mine.txt").read_text() == "keep"


def test_interrupted_drawing_leaves_no_half_set(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: str) -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download("sample", tmp_path / "store", source=recipe, progress=stop)  # type: ignore[arg-type]
    assert [p.name for p in (tmp_path / "store").iterdir()] == [".sample.lock"]


def test_cityscapes_without_a_login_says_what_to_place_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    # Without the sizes, for which a small disk would be refused first.
    source = tmp_path / "cityscapes.yaml"
    source.write_text(re.sub(r" +size: .*\n", "", source_file("cityscapes").read_text()))
    with pytest.raises(
        DatasetError, match=r"found no login at .*home.* by hand\. .*gtFine_trainvaltest\.zip"
    ):
        download("cityscapes", tmp_path / "store", source=source)


def test_data_placed_by_hand_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "cityscapes" / "leftImg8bit").mkdir(parents=True)
    (tmp_path / "cityscapes" / "gtFine").mkdir()
    assert download("cityscapes", tmp_path) == tmp_path / "cityscapes"


def test_half_of_it_by_hand_is_named(tmp_path: Path) -> None:
    (tmp_path / "cityscapes" / "leftImg8bit").mkdir(parents=True)
    with pytest.raises(DatasetError, match="found a folder without gtFine"):
        download("cityscapes", tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [("cityscape", "Did you mean 'cityscapes'"), ("imagenet", "expected one of cityscapes, coco")],
)
def test_unknown_name(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        download(name, tmp_path)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_known_data_set_has_a_source_file(name: str) -> None:
    source = load_source(name)
    assert source.dataset == name
    assert bool(source.recipe) != bool(source.archives)
    assert bool(source.by_hand) == any(archive.package for archive in source.archives)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dataset: sample\n", "with one of recipe, archives, by_hand"),
        ("dataset: voc\nrecipe: {}\n", "describes 'voc', expected 'sample'"),
        ("dataset: sample\nrecipe: {colour: 3}\n", "unknown"),
        ("dataset: sample\narchives: [{link: x}]\n", "expected url"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_bad_source_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(DatasetError, match=words):
        load_source("sample", tmp_path / "s.yaml")


def test_store_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTOR_DATASETS", str(tmp_path))
    assert default_store() == tmp_path
    monkeypatch.delenv("DETECTOR_DATASETS")
    monkeypatch.chdir(tmp_path)
    assert default_store() == tmp_path / ".datasets"


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[Path]:
    """A source file for two archives that fill one folder, on a server on this machine."""
    served = tmp_path / "served"
    served.mkdir()
    for name in ("one", "two"):
        with zipfile.ZipFile(served / f"{name}.zip", "w") as bundle:
            bundle.writestr(f"VOCdevkit/VOC2007/{name}.txt", name)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    handler = functools.partial(Quiet, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    lines = ["dataset: voc", "archives:"]
    for name in ("one", "two"):
        digest = hashlib.md5((served / f"{name}.zip").read_bytes()).hexdigest()
        lines += [f"  - url: http://127.0.0.1:{server.server_port}/{name}.zip", f"    md5: {digest}"]
    (tmp_path / "voc.yaml").write_text("\n".join(lines))
    yield tmp_path / "voc.yaml"
    server.shutdown()
    server.server_close()


def test_archives_fill_one_tree(tmp_path: Path, archives: Path) -> None:
    place = download("voc", tmp_path / "store", source=archives)
    assert sorted(p.name for p in (place / "VOCdevkit/VOC2007").iterdir()) == ["one.txt", "two.txt"]
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == [".voc.lock", "voc"]


def test_finished_archive_is_not_fetched_again_after_a_failure(tmp_path: Path, archives: Path) -> None:
    second = tmp_path / "served" / "two.zip"
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(DatasetError, match="404"):
        download("voc", tmp_path / "store", source=archives)
    assert not (tmp_path / "store" / "voc").exists()
    second.write_bytes(content)
    (tmp_path / "served" / "one.zip").unlink()
    place = download("voc", tmp_path / "store", source=archives)
    assert (place / "VOCdevkit/VOC2007/one.txt").read_text() == "one"
