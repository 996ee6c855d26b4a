"""Every data set by its real source file, from a server that holds small archives of the real layout."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from detector.config import load_config
from detector.data.download import DATASETS, download, link, load_source
from detector.errors import DatasetError
from detector.fetch import Patience
from tests.unit.prepare.loopback import Behaviour, serving

SOURCES = Path(__file__).parents[3] / "configs" / "sources"
CONFIGS = Path(__file__).parents[3] / "configs" / "_base_" / "datasets"
QUICK = Patience(attempts=2, wait_s=0.001, timeout_s=5)


def zipped(*names: str, **nested: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name in names:
            bundle.writestr(name, f"content of {name}")
        for name, content in nested.items():
            bundle.writestr(name, content)
    return stream.getvalue()


def tarred(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tape:
        for name in names:
            content = f"content of {name}".encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tape.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def voc(year: int, split: str, image: str) -> list[str]:
    top = f"VOCdevkit/VOC{year}"
    names = ["train", "val", "trainval"] if split == "trainval" else ["test"]
    return [
        f"{top}/Annotations/{image}.xml",
        f"{top}/JPEGImages/{image}.jpg",
        *(f"{top}/ImageSets/Main/{name}.txt" for name in names),
    ]


def cityscapes(kind: str, suffix: str) -> list[str]:
    cities = {"train": "aachen", "val": "frankfurt", "test": "berlin"}
    frames = [f"{kind}/{split}/{city}/{city}_000000_000019_{suffix}" for split, city in cities.items()]
    return ["README", "license.txt", *frames]


PANOPTIC = {
    f"annotations/panoptic_{split}2017.zip": zipped(
        f"panoptic_{split}2017/000000000139.png", f"__MACOSX/panoptic_{split}2017/._000000000139.png"
    )
    for split in ("train", "val")
}
ARCHIVES = {
    "train2017.zip": zipped("train2017/000000000009.jpg"),
    "val2017.zip": zipped("val2017/000000000139.jpg"),
    "test2017.zip": zipped("test2017/000000000001.jpg"),
    "annotations_trainval2017.zip": zipped(
        *(
            f"annotations/{kind}_{split}2017.json"
            for kind in ("instances", "captions", "person_keypoints")
            for split in ("train", "val")
        )
    ),
    "image_info_test2017.zip": zipped(
        "annotations/image_info_test2017.json", "annotations/image_info_test-dev2017.json"
    ),
    "panoptic_annotations_trainval2017.zip": zipped(
        "annotations/panoptic_train2017.json", "annotations/panoptic_val2017.json", **PANOPTIC
    ),
    "stuffthingmaps_trainval2017.zip": zipped("train2017/000000000009.png", "val2017/000000000139.png"),
    "VOCtrainval_06-Nov-2007.tar": tarred(*voc(2007, "trainval", "000005")),
    "VOCtest_06-Nov-2007.tar": tarred(*voc(2007, "test", "000001")),
    "VOCtrainval_11-May-2012.tar": tarred(*voc(2012, "trainval", "2007_000027")),
    "lvis_v0.5_train.json.zip": zipped("lvis_v0.5_train.json"),
    "lvis_v0.5_val.json.zip": zipped("lvis_v0.5_val.json"),
    "lvis_v0.5_image_info_test.json.zip": zipped("lvis_v0.5_image_info_test.json"),
    "lvis_v1_train.json.zip": zipped("lvis_v1_train.json"),
    "lvis_v1_val.json.zip": zipped("lvis_v1_val.json"),
    "lvis_v1_image_info_test_dev.json.zip": zipped("lvis_v1_image_info_test_dev.json"),
    "leftImg8bit_trainvaltest.zip": zipped(*cityscapes("leftImg8bit", "leftImg8bit.png")),
    "gtFine_trainvaltest.zip": zipped(*cityscapes("gtFine", "gtFine_instanceIds.png")),
}
DOWNLOADED = sorted(set(DATASETS) - {"sample"})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Behaviour]]:
    """A project folder whose source files are the real ones, but for sizes and digests of the archives."""
    (tmp_path / "configs/sources").mkdir(parents=True)
    for path in SOURCES.glob("*.yaml"):
        text = re.sub(r"^ +(size|md5|sha256): .*\n", "", path.read_text(), flags=re.MULTILINE)
        (tmp_path / "configs/sources" / path.name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detector.data.download.store.PATIENCE", QUICK)
    behaviour = Behaviour(dict(ARCHIVES))
    with serving(behaviour) as url:
        monkeypatch.setenv("DETECTOR_MIRROR", url)
        yield tmp_path, behaviour


def tree(root: Path) -> list[str]:
    files = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name for name in files if not name.startswith(".archives/") and name != "source.json")


def fetched(behaviour: Behaviour) -> list[str]:
    return sorted({path for path, _ in behaviour.seen})


@pytest.mark.parametrize("name", DOWNLOADED)
def test_source_file_names_a_server_and_what_is_known(name: str) -> None:
    source = load_source(name)
    for archive in source.archives:
        assert archive.part
        assert archive.gives != "."
        assert archive.package or archive.url.startswith(("http://", "https://"))
        assert archive.checksum is None or archive.size
    parts = [archive.part for archive in source.archives]
    assert len(set(parts)) == len(parts)


@pytest.mark.parametrize("name", DOWNLOADED)
def test_archives_give_what_the_source_file_says(project: tuple[Path, Behaviour], name: str) -> None:
    source = load_source(name)
    place = download(name, "store", parts=[archive.part for archive in source.archives])
    assert [a.gives for a in source.archives if not (place / a.gives).exists()] == []
    assert sorted(p.name for p in Path("store").iterdir() if "download" in p.name) == []


def test_coco_by_default_and_with_the_rest(project: tuple[Path, Behaviour]) -> None:
    place = download("coco", "store")
    default = tree(place)
    assert default[-3:] == [
        "test2017/000000000001.jpg", "train2017/000000000009.jpg", "val2017/000000000139.jpg",
    ]  # fmt: skip
    assert len(default) == 11
    project[1].seen.clear()
    download("coco", "store", parts=["panoptic", "stuffthingmaps"])
    assert fetched(project[1]) == ["panoptic_annotations_trainval2017.zip", "stuffthingmaps_trainval2017.zip"]
    assert sorted(set(tree(place)) - set(default)) == [
        "annotations/panoptic_train2017.json",
        "annotations/panoptic_val2017.json",
        "panoptic/panoptic_train2017/000000000139.png",
        "panoptic/panoptic_val2017/000000000139.png",
        "stuffthingmaps/train2017/000000000009.png",
        "stuffthingmaps/val2017/000000000139.png",
    ]
    assert [path.name for path in link("coco", "store")] == [
        "train2017", "val2017", "test2017", "source_annotations", "stuffthingmaps", "panoptic_train2017",
        "panoptic_val2017",
    ]  # fmt: skip


def test_only_the_named_parts_come(project: tuple[Path, Behaviour]) -> None:
    download("coco", "store", parts=["val2017", "annotations"])
    assert fetched(project[1]) == ["annotations_trainval2017.zip", "val2017.zip"]
    assert [path.name for path in link("coco", "store")] == ["val2017", "source_annotations"]


@pytest.mark.parametrize("name", ["lvis_v0.5", "lvis_v1"])
def test_lvis_takes_cocos_images(project: tuple[Path, Behaviour], name: str) -> None:
    download(name, "store")
    assert fetched(project[1]) == [
        f"{name}_train.json.zip", f"{name}_val.json.zip", "train2017.zip", "val2017.zip",
    ]  # fmt: skip
    links = {path.name: path.resolve() for path in link(name, "store")}
    store = Path("store").resolve()
    assert links["train2017"] == store / "coco/train2017"
    assert links["source_annotations"] == store / name / "annotations"


def test_nothing_is_fetched_twice(project: tuple[Path, Behaviour]) -> None:
    download("voc", "store")
    project[1].seen.clear()
    download("voc", "store")
    assert project[1].seen == []


def test_only_the_archive_with_a_lost_file_is_fetched_again(project: tuple[Path, Behaviour]) -> None:
    place = download("voc", "store")
    whole = tree(place)
    (place / "mine.txt").write_text("a file of the user is no reason to fetch anything")
    (place / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").unlink()
    project[1].seen.clear()
    download("voc", "store")
    assert fetched(project[1]) == ["VOCtest_06-Nov-2007.tar"]
    assert tree(place) == sorted([*whole, "mine.txt"])


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("coco", "coco_instance"),
        ("cityscapes", "cityscapes_instance"),
        ("lvis_v0.5", "lvis_v0.5_instance"),
        ("lvis_v1", "lvis_v1_instance"),
        ("voc", "voc0712"),
    ],
)
def test_linked_data_is_where_the_configs_look(project: tuple[Path, Behaviour], name: str, base: str) -> None:
    download(name, "store")
    link(name, "store")
    data = load_config(CONFIGS / f"{base}.py").data["data"]
    sections = [data[split].get("dataset", data[split]) for split in ("train", "val", "test")]
    prefixes = [section["img_prefix"] for section in sections]
    flat = [path for prefix in prefixes for path in ([prefix] if isinstance(prefix, str) else prefix)]
    assert [path for path in flat if not Path(path).is_dir()] == []


def test_new_digest_in_the_source_file_fetches_that_archive_anew(project: tuple[Path, Behaviour]) -> None:
    download("voc", "store")
    source = Path("configs/sources/voc.yaml")
    new = tarred(*voc(2007, "test", "000001"), "VOCdevkit/VOC2007/JPEGImages/000002.jpg")
    project[1].files["VOCtest_06-Nov-2007.tar"] = new
    digest = f"    sha256: {hashlib.sha256(new).hexdigest()}\n"
    line = "    gives: VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    source.write_text(source.read_text().replace(line, f"{digest}{line}"))
    project[1].seen.clear()
    place = download("voc", "store")
    assert fetched(project[1]) == ["VOCtest_06-Nov-2007.tar"]
    assert (place / "VOCdevkit/VOC2007/JPEGImages/000002.jpg").is_file()


def test_downloaded_archive_is_not_fetched_again_after_a_killed_extraction(
    project: tuple[Path, Behaviour], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this one neither size nor digest is known: that it is there under its name means it is whole."""

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("detector.data.download.archives.extract", die)
        with pytest.raises(KeyboardInterrupt):
            download("coco", "store", parts=["stuffthingmaps"])
    project[1].seen.clear()
    assert (download("coco", "store", parts=["stuffthingmaps"]) / "stuffthingmaps/val2017").is_dir()
    assert project[1].seen == []


def test_mirror_may_be_a_folder(project: tuple[Path, Behaviour], tmp_path: Path) -> None:
    folder = tmp_path / "zips"
    folder.mkdir()
    for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"):
        (folder / name).write_bytes(ARCHIVES[name])
    place = download("cityscapes", "store", mirrors=[str(folder)])
    assert len(tree(place)) == 8
    assert sorted(path.name for path in folder.iterdir()) == [
        "gtFine_trainvaltest.zip", "leftImg8bit_trainvaltest.zip",
    ]  # fmt: skip
    assert project[1].seen == []


def test_next_mirror_is_tried_and_the_last_failure_names_all(project: tuple[Path, Behaviour]) -> None:
    away = "http://127.0.0.1:9/archives"
    with serving(project[1]) as good:
        download("voc", "store", parts=["test2007"], mirrors=[away, f"{good}/"], patience=QUICK)
    with pytest.raises(
        DatasetError, match=r"no mirror has it\. http://127\.0\.0\.1:9/archives.*nowhere/VOCtest"
    ):
        download("voc", "other", parts=["test2007"], mirrors=[away, "nowhere"], patience=QUICK)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"<html>log in</html>", "came with md5"), (None, "found nothing, expected the archive")],
    ids=["wrong", "missing"],
)
def test_unfit_file_in_a_mirror_folder(tmp_path: Path, content: bytes | None, words: str) -> None:
    source = yaml.safe_load((SOURCES / "voc.yaml").read_text())
    for archive in source["archives"]:
        archive.pop("size")
    (tmp_path / "voc.yaml").write_text(yaml.safe_dump(source))
    if content:
        (tmp_path / "VOCtest_06-Nov-2007.tar").write_bytes(content)
    options = {"source": tmp_path / "voc.yaml", "parts": ["test2007"], "mirrors": [str(tmp_path)]}
    with pytest.raises(DatasetError, match=words):
        download("voc", tmp_path / "store", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["panotpic"], r"has no part 'panotpic', expected one of train2017, .*Did you mean 'panoptic'\?"),
        (["x"], "has no part 'x', expected one of train2017"),
    ],
)
def test_unknown_part(tmp_path: Path, parts: list[str], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        download("coco", tmp_path, parts=parts)


def test_parts_beside_data_placed_by_hand(project: tuple[Path, Behaviour]) -> None:
    for folder in ("val2017", "annotations"):
        (Path("store/coco") / folder).mkdir(parents=True)
    (Path("store/coco/val2017/mine.jpg")).write_text("mine")
    assert download("coco", "store") == Path("store/coco").absolute()
    download("coco", "store", parts=["val2017"])
    with pytest.raises(DatasetError, match="found a folder without stuffthingmaps/val2017"):
        download("coco", "store", parts=["stuffthingmaps"])
    assert project[1].seen == []


def test_folder_on_another_disk_is_filled_through_its_link(
    project: tuple[Path, Behaviour], tmp_path: Path
) -> None:
    place = download("voc", "store", parts=["trainval2007"])
    elsewhere = tmp_path / "elsewhere"
    (place / "VOCdevkit/VOC2007").rename(elsewhere)
    (place / "VOCdevkit/VOC2007").symlink_to(elsewhere)
    download("voc", "store", parts=["test2007"])
    assert (elsewhere / "JPEGImages/000001.jpg").is_file()


def test_disk_that_is_too_small_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from detector.errors import MachineError

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 20 * 10**9))
    with pytest.raises(MachineError, match=r"found 20\.0 GB free, expected at least 46\.4 GB for 5 archives"):
        download("coco", tmp_path, mirrors=["http://127.0.0.1:9"])
