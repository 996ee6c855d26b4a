"""`python -m tasks prepare` and `convert` of every downloaded data set, from a server on this machine."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.config.resolve import FAMILIES
from detector.data.synthetic import Recipe, write_cityscapes, write_coco, write_voc
from detector.errors import ConfigError, DatasetError
from tasks import __main__ as command
from tasks import submit
from tasks.request import DataRequest, Request, owner
from tests.unit.prepare.loopback import Behaviour, serving

PROJECT = Path(__file__).resolve().parents[3]
JOINT = [f"voc0712_{split}" for split in ("train", "val", "trainval")]
RECIPE = Recipe(seed=3, train=2, val=1, test=1, height=64, width=96)


def packed(root: Path, *tops: str, tape: bool = False) -> bytes:
    """A zip or tar of files below folders of ``root``, as the real archives hold them."""
    stream = io.BytesIO()
    files = sorted(path for top in tops for path in [root / top, *(root / top).rglob("*")] if path.is_file())
    if tape:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for path in files:
                archive.add(path, path.relative_to(root).as_posix())
        return stream.getvalue()
    with zipfile.ZipFile(stream, "w") as bundle:
        for path in files:
            bundle.write(path, path.relative_to(root).as_posix())
    return stream.getvalue()


def lvis_file(coco: Path, split: str) -> bytes:
    """The images of a COCO file in LVIS v1's form."""
    content = json.loads(coco.read_text())
    for image in content["images"]:
        image |= {"coco_url": f"http://images.cocodataset.org/{split}2017/{image.pop('file_name')}"}
    return json.dumps(content).encode()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return stream.getvalue()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small archives with the names, layouts and formats of the real ones."""
    root = tmp_path_factory.mktemp("servers")
    write_coco(root / "coco", recipe=RECIPE)
    write_cityscapes(root / "cityscapes", recipe=RECIPE)
    for year in (2007, 2012):
        write_voc(root / "voc/VOCdevkit", recipe=RECIPE, year=year)
    info = root / "coco/annotations/image_info_test-dev2017.json"
    instances = {split: root / f"coco/annotations/instances_{split}2017.json" for split in ("train", "val")}
    info.write_bytes(info.with_name("image_info_test2017.json").read_bytes())
    found = {f"{split}2017.zip": packed(root / "coco", f"{split}2017") for split in ("train", "val", "test")}
    for split, path in instances.items():
        found[f"lvis_v1_{split}.json.zip"] = zipped(**{f"lvis_v1_{split}.json": lvis_file(path, split)})
    dev = "lvis_v1_image_info_test_dev.json"
    return found | {
        "annotations_trainval2017.zip": packed(
            root / "coco", *(f"annotations/{p.name}" for p in instances.values())
        ),
        "image_info_test2017.zip": packed(root / "coco", f"annotations/{info.name}"),
        f"{dev}.zip": zipped(**{dev: lvis_file(info, "test")}),
        "VOCtrainval_06-Nov-2007.tar": packed(root / "voc", "VOCdevkit/VOC2007", tape=True),
        "VOCtest_06-Nov-2007.tar": packed(root / "voc", "VOCdevkit/VOC2007", tape=True),
        "VOCtrainval_11-May-2012.tar": packed(root / "voc", "VOCdevkit/VOC2012", tape=True),
        "leftImg8bit_trainvaltest.zip": packed(root / "cityscapes", "leftImg8bit"),
        "gtFine_trainvaltest.zip": packed(root / "cityscapes", "gtFine"),
    }


@pytest.fixture
def project(archives: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's folder with the real configs; the source files lack the archives' sizes and digests."""
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    for path in (PROJECT / "configs/sources").glob("*.yaml"):
        text = re.sub(r"^ +(size|md5|sha256): .*\n", "", path.read_text(), flags=re.MULTILINE)
        (tmp_path / "configs/sources" / path.name).write_text(text)
    (tmp_path / "params.yaml").write_text("config: mask_rcnn\ndataset: sample\nseed: 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTOR_DATASETS", raising=False)
    with serving(Behaviour(dict(archives))) as url:
        monkeypatch.setenv("DETECTOR_MIRROR", url)
        yield tmp_path


def step(*words: str) -> int:
    return command.main(list(words))


@pytest.mark.parametrize(
    ("dataset", "annotations"),
    [
        ("coco", ["image_info_test-dev2017", "instances_train2017", "instances_val2017"]),
        ("lvis_v1", ["lvis_v1_train", "lvis_v1_val"]),
        ("cityscapes", [f"instancesonly_filtered_gtFine_{split}" for split in ("test", "train", "val")]),
        (
            "voc",
            [f"{y}_{s}" for y in ("voc07", "voc12") for s in ("train", "val", "trainval", "test")] + JOINT,
        ),
    ],
)
def test_prepare_and_convert_make_all_that_the_configs_read(
    project: Path, dataset: str, annotations: list[str]
) -> None:
    assert step("prepare", "--dataset", dataset) == 0
    assert step("convert", "--dataset", dataset) == 0
    folder = project / "data" / dataset / "annotations"
    assert not folder.is_symlink()
    assert {path.stem for path in folder.iterdir()} == set(annotations)
    families = [
        family for family, data in FAMILIES if DataRequest(data).dataset == dataset and family != "htc"
    ]
    assert families
    for family in families:
        request = Request(family, dataset)
        assert request.data == DataRequest(dataset)
        if family not in ("detectors", "scnet"):  # they read COCO-stuff, too
            assert request.inputs("train", "val", "test")


def test_short_name_of_a_data_set_is_its_newest_version(project: Path) -> None:
    assert step("prepare", "--config", "mask_rcnn", "--dataset", "lvis") == 0
    assert step("convert", "--dataset", "lvis") == 0
    assert (project / "data/lvis_v1/annotations/lvis_v1_val.json").is_file()
    assert Request("mask_rcnn", "lvis").name == Request("mask_rcnn", "lvis_v1").name


def test_under_dvc_the_short_name_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "prepare")
    (project / "params.yaml").write_text("config: mask_rcnn\ndataset: lvis\nseed: 0\n")
    with pytest.raises(ConfigError, match=r"found dataset: lvis;.*Write dataset: lvis_v1"):
        command.request_from(command.parser().parse_args(["prepare"]))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data/coco/annotations/a.json", "coco"),
        ("data/VOCdevkit/VOC2007", "voc"),
        ("data/VOCdevkit", "voc"),
        ("data/lvis_v1/", "lvis_v1"),
        ("/data/coco/a.json", ""),
        ("data", ""),
    ],
)
def test_owner_of_a_path(project: Path, path: str, expected: str) -> None:
    assert owner(Path(path)) == expected


def test_devkit_of_the_user_is_not_ours(project: Path) -> None:
    (project / "data/VOCdevkit/VOC2007").mkdir(parents=True)
    assert owner(Path("data/VOCdevkit/VOC2007")) == ""
    assert Request("faster_rcnn", "voc").data is None


@pytest.mark.parametrize(
    ("config", "dataset", "words"),
    [
        ("faster_rcnn", "voc", r"data/VOCdevkit/.*trainval\.txt does not exist.*tasks prepare --dataset voc"),
        ("mask_rcnn", "lvis", r"lvis_v1_train\.json does not exist.*tasks convert --dataset lvis_v1"),
        ("mask_rcnn", "cityscapes", r"gtFine_train\.json does not exist.*tasks prepare --dataset cityscapes"),
        (
            "faster_rcnn_r50_fpn_1x_voc0712_cocofmt",
            "",
            r"name data/voc/annotations/voc0712_trainval\.json in the",
        ),
    ],
)
def test_missing_data_says_what_to_type(project: Path, config: str, dataset: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        Request(config, dataset).inputs("train")


def test_missing_optional_part_is_named(project: Path) -> None:
    assert step("prepare", "--dataset", "coco") == 0
    assert step("convert", "--dataset", "coco") == 0
    with pytest.raises(DatasetError, match=r"in the part 'stuffthingmaps'.*--parts stuffthingmaps`, then"):
        Request("htc", "coco").inputs("train")
    assert step("prepare", "--dataset", "lvis") == 0
    assert step("convert", "--dataset", "lvis") == 0
    request = Request("mask_rcnn", "lvis")
    with pytest.raises(DatasetError, match=r"download lvis_v1 --parts image_info`, then .*tasks prepare"):
        request.digests([Path(path) for path in submit.test_split(request).values()])


def test_linking_coco_by_hand_makes_it_whole_at_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`detector download coco`, `detector link coco`, and the configs' files are there; DVC's rule holds."""
    from detector.cli import main

    assert main(["download", "coco"]) == 0
    assert main(["link", "coco"]) == 0
    assert Request("mask_rcnn", "coco").inputs("train", "val", "test")
    folder = project / "data/coco/annotations"
    assert not folder.is_symlink()
    assert not any(path.is_symlink() for path in folder.iterdir())
    mine = folder / "instances_val2017.json"
    mine.write_text("{}")
    capsys.readouterr()
    assert main(["link", "coco"]) == 0
    assert mine.read_text() == "{}"
    assert (
        "instances_val2017.json: already there, another file; `detector convert coco"
        in capsys.readouterr().out
    )
    assert main(["convert", "coco", "data/coco"]) == 0
    source = project / "data/coco/source_annotations/instances_val2017.json"
    assert mine.read_bytes() == source.read_bytes()
    assert source.stat().st_nlink == 1
