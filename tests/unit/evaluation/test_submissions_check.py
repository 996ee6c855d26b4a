"""`detector check-submission` on COCO and LVIS files: broken ones are refused with the reason."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.cli import main
from detector.errors import ConfigError
from detector.evaluation.submissions import coco
from detector.evaluation.submissions.check import check_submission, pack
from detector.evaluation.submissions.findings import Findings
from detector.structures import masks
from tests.unit.evaluation.checking import run

NAME = "detections_test-dev2017_mine_results.json"
RLE = masks.to_json(masks.encode(np.pad(np.ones((4, 6), np.uint8), ((1, 5), (2, 12)))))
GOOD = {"image_id": 7, "category_id": 24, "score": 0.5, "bbox": [1, 1, 5.5, 5]}
MASKED = {"image_id": 7, "category_id": 26, "score": 0.5, "segmentation": RLE}


BROKEN_RECORDS: dict[str, tuple[Any, str]] = {
    "foreign image": ({**GOOD, "image_id": 8}, "image id: .* image_id 8 is not in image_info_test"),
    "image id is text": ({**GOOD, "image_id": "7"}, "image id: .* image_id '7' is not in"),
    "image id is true": ({**GOOD, "image_id": True}, "image id: .* True is not an id"),
    "no image id": ({k: v for k, v in GOOD.items() if k != "image_id"}, "image id: .* None is not an id"),
    "foreign category": ({**GOOD, "category_id": 1}, r"category id: .* 1 is not in .* \(24, 26\)"),
    "category is a list": ({**GOOD, "category_id": [24]}, r"category id: .* \[24\] is not in"),
    "score is NaN": ({**GOOD, "score": float("nan")}, "score: .* nan is not a finite number"),
    "score is infinite": ({**GOOD, "score": float("inf")}, "score: .* inf is not a finite"),
    "score is text": ({**GOOD, "score": "0.5"}, "score: .* '0.5' is not a finite"),
    "no score": ({k: v for k, v in GOOD.items() if k != "score"}, "score: .* None is not a finite"),
    "three numbers": ({**GOOD, "bbox": [1, 1, 5]}, r"box: .* bbox \[1, 1, 5\] is not four finite numbers"),
    "box is NaN": ({**GOOD, "bbox": [1, 1, 5, float("nan")]}, "box: .* is not four finite numbers"),
    "negative side": ({**GOOD, "bbox": [5, 5, -2, 3]}, "box: .* has a negative side"),
    "box left of the image": ({**GOOD, "bbox": [-3, 1, 5, 5]}, "box: .* begins left of or above the image"),
    "box beyond the image": ({**GOOD, "bbox": [1, 1, 5, 30]}, "box: .* leaves the image of 20 x 10 pixels"),
    "no shape": ({k: v for k, v in GOOD.items() if k != "bbox"}, "result: .* neither bbox nor segmentation"),
    "mixed sorts": (MASKED, "result: .* has no bbox, but the file's first result has"),
    "mask of another size": (
        {**GOOD, "segmentation": {"size": [20, 10], "counts": "0"}},
        r"mask: .* \[10, 20\]",
    ),
    "mask too short": (
        {**GOOD, "segmentation": {"size": [10, 20], "counts": "0"}},
        "mask: .* cover 0 pixels",
    ),
    "mask is a polygon": (
        {**GOOD, "segmentation": [[1, 1, 2, 2, 3, 1]]},
        "mask: .* expected a dict with size",
    ),
    "not an object": ("text", "result: .* found str, expected an object"),
}


@pytest.mark.parametrize(("record", "reason"), BROKEN_RECORDS.values(), ids=BROKEN_RECORDS)
def test_a_broken_coco_result_is_refused(tmp_path, info, capsys, record, reason):
    path = tmp_path / NAME
    path.write_text(json.dumps([GOOD, record]))
    code, printed = run(capsys, path, "--annotations", info)
    assert code == 1
    assert "refused, 1 fault (coco)" in printed
    assert f"{NAME} result 1: " in printed
    assert re.search(reason, printed)


Writer = Callable[[Path], Path]


def _json(content: str, name: str = NAME) -> Writer:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def _zip(*entries: tuple[str, bytes], name: str = "s.zip") -> Writer:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for inner, data in entries:
                archive.writestr(inner, data)
        return folder / name

    return write


def _damaged_zip(folder: Path) -> Path:
    path = _zip((NAME, FINE))(folder)
    path.write_bytes(path.read_bytes().replace(b'"score"', b'"scare"'))
    return path


def _cut_zip(folder: Path) -> Path:
    path = _zip((NAME, FINE))(folder)
    path.write_bytes(path.read_bytes()[:-30])
    return path


def _link_zip(folder: Path) -> Path:
    entry = zipfile.ZipInfo(NAME)
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "s.zip", "w") as archive:
        archive.writestr(entry, "elsewhere.json")
    return folder / "s.zip"


FINE = json.dumps([GOOD]).encode()
BROKEN_FILES: dict[str, tuple[Writer, str]] = {
    "cut off": (_json("[{"), "file: .* cannot be read as JSON"),
    "an object": (_json('{"results": []}'), "file: .* holds a JSON dict, expected a list"),
    "no result": (_json("[]"), "file: .* holds no result"),
    "zip with a folder": (_zip((f"out/{NAME}", FINE)), f"layout: out/{NAME} lies in a folder"),
    "zip with another name": (_zip(("r.bbox.json", FINE)), "name: r.bbox.json, expected detections_"),
    "zip of two files": (_zip((NAME, FINE), (NAME.replace("mine", "b"), FINE)), "layout: found 2 results"),
    "zip with the same name twice": (_zip((NAME, FINE), (NAME, FINE)), "zip: .* is stored 2 times"),
    "zip with litter": (
        _zip((NAME, FINE), (f"__MACOSX/._{NAME}", b"")),
        "layout: __MACOSX.* system's archiver",
    ),
    "zip without a result": (_zip(("readme.txt", b"hello")), "layout: readme.txt is no JSON file"),
    "zip that climbs out": (_zip((f"../{NAME}", FINE)), "zip: .* leaves the archive"),
    "empty zip": (_zip(), "zip: s.zip is empty"),
    "damaged zip": (_damaged_zip, "file: .* cannot be read .*CRC"),
    "cut zip": (_cut_zip, "zip: s.zip is not a zip file"),
    "zip of a link": (_link_zip, "zip: .* is a link"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("write", "reason"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_coco_file_is_refused(tmp_path, info, capsys, write, reason):
    code, printed = run(capsys, write(tmp_path), "--annotations", info)
    assert code == 1
    assert re.search(reason, printed)


def test_a_submission_beyond_the_limit_is_refused(tmp_path, info, capsys):
    path = _zip((NAME, json.dumps([GOOD] * 500).encode()))(tmp_path)
    code, printed = run(capsys, path, "--annotations", info, "--max-megabytes", "0.001")
    assert code == 1
    assert "MB of zip, expected at most 0.001 MB" in printed


def test_faults_are_counted_and_the_first_of_each_kind_shown(tmp_path, info, capsys):
    records = [{**GOOD, "image_id": i} for i in range(100, 120)] + [{**GOOD, "score": None}]
    path = _json(json.dumps(records))(tmp_path)
    code, printed = run(capsys, path, "--annotations", info, "--show", "2")
    assert code == 1
    lines = printed.splitlines()
    assert [line.split(" result")[0] for line in lines[1:3]] == [f"image id: {NAME}"] * 2
    assert lines[3] == "image id: and 18 more (20 in all)"
    assert lines[4].startswith(f"score: {NAME} result 20: ")
    assert lines[5] == f"{path}: refused, 21 faults (coco)"


@pytest.mark.parametrize(
    ("out", "inner"),
    [
        ("detections_test-dev2017_other_results.zip", "detections_test-dev2017_other_results.json"),
        ("s.zip", "detections_test-dev2017_r_results.json"),
    ],
)
def test_the_zip_has_the_servers_name_and_passes(tmp_path, info, capsys, out, inner):
    path = _json(json.dumps([MASKED, MASKED]), "r.segm.json")(tmp_path)
    code, printed = run(capsys, path, "--annotations", info, "--zip", tmp_path / out)
    assert (code, printed.splitlines()[-1]) == (0, f"written: {tmp_path / out}")
    assert zipfile.ZipFile(tmp_path / out).namelist() == [inner]
    assert run(capsys, tmp_path / out, "--annotations", info)[0] == 0


def test_no_zip_of_a_broken_submission(tmp_path, info, capsys):
    path = _json("[]")(tmp_path)
    assert run(capsys, path, "--annotations", info, "--zip", tmp_path / "s.zip")[0] == 1
    assert not (tmp_path / "s.zip").exists()


def test_two_results_files_make_no_zip(tmp_path, info):
    for name in ("r.bbox.json", "r.segm.json"):
        _json(json.dumps([GOOD]), name)(tmp_path)
    report = check_submission(tmp_path, annotations=None)
    assert "r.bbox.json: 1 results on 1 images" in report.findings.notes
    with pytest.raises(ConfigError, match="one results file a zip"):
        pack(report, tmp_path / "s.zip")


def test_what_is_there_is_checked_without_annotations(tmp_path, capsys):
    records = [{**GOOD, "category_id": 90}, {**GOOD, "category_id": 12}]
    code, printed = run(capsys, _json(json.dumps(records))(tmp_path))
    assert code == 1
    assert "category_id 12 is not in COCO (1, 2, 3, 4, ...)" in printed
    assert "without --annotations neither missing images" in printed


def test_coco_has_eighty_categories():
    assert len(coco.COCO_CATEGORY_IDS) == 80


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nothing.json"], "nothing.json: found nothing; expected a results file"),
        (["r.json", "--kind", "kitti"], "--kind: found 'kitti'; expected one of coco, cityscapes, lvis, voc"),
        (["r.json", "--annotations", "no.json"], "no.json: found no such file"),
        (["r.json", "--zip", "out.tar"], "--zip: found out.tar"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, monkeypatch, capsys, words, named):
    monkeypatch.chdir(tmp_path)
    _json(json.dumps([{**GOOD, "category_id": 1}]), "r.json")(tmp_path)
    assert main(["check-submission", *words]) == 1
    assert named in capsys.readouterr().err


def test_lvis_takes_any_name_and_three_hundred_results(tmp_path):
    categories = [{"id": i, "name": f"c{i}"} for i in range(1, 1204)]
    info = tmp_path / "lvis_v1_image_info_test_dev.json"
    info.write_text(json.dumps({"images": [{"id": 1, "height": 9, "width": 9}], "categories": categories}))
    record = {"image_id": 1, "category_id": 1203, "score": 0.1, "bbox": [0, 0, 5, 5]}
    path = _zip(("r.bbox.json", json.dumps([record] * 301).encode()))(tmp_path)
    report = check_submission(path, annotations=info)
    assert (report.kind, report.findings.lines()) == ("lvis", [])
    assert "more than 300 results" in report.findings.notes[1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.dictionaries(
                st.sampled_from(["image_id", "category_id", "score", "bbox", "segmentation", "x"]),
                st.one_of(
                    st.none(),
                    st.booleans(),
                    st.integers(),
                    st.floats(),
                    st.text(max_size=3),
                    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=2)), max_size=5),
                    st.fixed_dictionaries(
                        {"size": st.lists(st.integers(), max_size=3), "counts": st.text(max_size=6)}
                    ),
                ),
            ),
            st.none(),
            st.integers(),
            st.lists(st.integers(), max_size=2),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_json_is_judged_without_a_crash(records):
    findings = Findings()
    coco.check_records("r.json", json.dumps(records).encode(), None, findings, most_used=100)
    lacking = [r for r in records if not isinstance(r, dict) or not {"image_id", "score"} <= r.keys()]
    assert len(lacking) <= findings.counts.total() <= len(records)


def test_an_archive_that_would_fill_the_memory_is_not_read(tmp_path, info, monkeypatch):
    monkeypatch.setattr("detector.evaluation.submissions.package.MAX_UNPACKED", 10)
    path = _zip((NAME, FINE))(tmp_path)
    assert "GB when unpacked" in check_submission(path, annotations=info).findings.lines()[0]
