"""The files of a scan, and the command."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detector.cli import main
from detector.data.scan import panel
from detector.data.scan.contents import Contents, read_coco_contents
from detector.data.scan.findings import KINDS
from detector.data.scan.report import SHOWN, as_document, as_lines, as_page, write_report
from detector.data.scan.run import Scan, scan
from tests.unit.data_scan.trees import Tree


class Links(HTMLParser):
    """All that a page would fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def written(found: Scan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scan, Path]:
    folder = tmp_path_factory.mktemp("report") / "new"
    paths = write_report(found, folder)
    assert [path.name for path in paths] == ["scan.json", "scan.png", "scan.html"]
    return found, folder


def test_the_json_holds_every_finding(written: tuple[Scan, Path]) -> None:
    found, folder = written
    document = json.loads((folder / "scan.json").read_text())
    assert len(document["findings"]) == len(found.findings) > 20
    assert sum(document["counts"].values()) == sum(document["severities"].values()) == len(found.findings)
    assert document["data_sets"][0]["objects_per_class"]["unicorn"] == 0
    assert {f["severity"] for f in document["findings"]} == {"problem", "warning", "note"}


def test_the_page_needs_no_other_file_and_names_every_finding(written: tuple[Scan, Path]) -> None:
    found, folder = written
    page = Links()
    page.feed((folder / "scan.html").read_text())
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.found)
    assert not re.search(r"url\(|@import|<script", (folder / "scan.html").read_text())
    for finding in found.findings:
        assert finding.subject in page.text
        assert finding.detail in page.text


def test_the_picture_is_drawn_and_shows_boxes(written: tuple[Scan, Path]) -> None:
    _, folder = written
    with Image.open(folder / "scan.png") as picture:
        assert picture.width == panel.WIDTH
        colours = picture.convert("RGB").resize((156, 224)).getcolors(156 * 224)
    assert len(colours) > 2000  # photographs, not only charts


def test_names_cannot_inject_markup(tree: Tree) -> None:
    tree.content["categories"][0]["name"] = "<script>alert(1)</script>"
    tree.content["images"][0]["file_name"] = "<img src=x onerror=alert(1)>.jpg"
    tree.box(1, [])
    found = scan([read_coco_contents(tree.write(), None, title="<b>train</b>")])
    page = as_page(found, b"")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<b>train" not in page
    assert "&lt;img src=x" in page


def test_a_long_list_is_cut_in_the_page_only() -> None:
    contents = Contents("train", None)
    for i in range(SHOWN + 50):
        contents.find("missing-file", f"{i}.jpg", "gone")
    found = Scan([contents], contents.findings, 0, 0.0)
    assert as_page(found, b"").count("class='file'") == SHOWN
    assert "and 50 more in scan.json" in as_page(found, b"")
    assert len(as_document(found)["findings"]) == SHOWN + 50
    assert sum("missing-file" in line for line in as_lines(found)) == 1


def test_a_clean_data_set_says_so(tree: Tree) -> None:
    found = scan([read_coco_contents(tree.write(), None)])
    assert "Nothing." in as_page(found, b"")
    assert as_lines(found)[-1] == "0 problems, 0 warnings, 0 notes"


@pytest.mark.parametrize("images", [0, 1, 9], ids=lambda n: f"{n} images")
def test_a_panel_of_any_number_of_images_can_be_drawn(tmp_path: Path, images: int) -> None:
    tree = Tree(tmp_path)
    for i in range(images):
        tree.box(tree.image(f"{i}.jpg"), (1.0, 1.0, 8.0 * (i + 1), 5.0))
    contents = read_coco_contents(tree.write(), tree.images) if images else Contents("none", None)
    small = panel.draw_panel(Scan([contents], [], 0, 0.0))
    assert (small.width, len(panel.pick_samples([contents], 8))) == (panel.WIDTH, min(images, 8))


def test_different_kinds_are_shown_first(found: Scan) -> None:
    shown = panel.pick_findings(found, found.sets[:1], 4)
    kinds = [sample.caption.split(":")[0] for sample in shown]
    assert len(set(kinds)) == 4
    assert all(KINDS[kind].severity != "note" for kind in kinds)


def test_the_command_writes_the_report_and_its_code_tells_of_problems(
    spoilt: Any, tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val = spoilt
    arguments = ["--images", str(train.images), "--against", str(val.write()), "--images", str(val.images)]
    assert main(["scan", str(train.write()), *arguments, "--out", str(tmp_path / "r")]) == 1
    printed = capsys.readouterr().out
    assert "leakage" in printed
    assert "leak.jpg: the same content as leaked.jpg of" in printed
    assert (tmp_path / "r" / "scan.html").is_file()
    assert main(["scan", str(tree.write()), "--out", str(tmp_path / "r")]) == 0
    assert "0 problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.json"], "nowhere.json: the annotation file does not exist"),
        (["no_such_config"], "no_such_config"),
        (["."], "found no VOC2007 or VOC2012 and no JPEGImages"),
    ],
    ids=str,
)
def test_the_command_names_what_is_not_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["scan", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_png_of_the_page_is_the_png_beside_it(written: tuple[Scan, Path]) -> None:
    import base64

    _, folder = written
    data = re.search(r"base64,([^']+)'", (folder / "scan.html").read_text())
    assert data is not None
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as picture:
        assert picture.size == Image.open(folder / "scan.png").size
