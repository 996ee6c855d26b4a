"""Every data set's own metrics, through `detector eval`: perfect results, mistakes, nothing to compare."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector import cli
from tests.unit.engine.small_sets import CLASSES, data_of, perfect, write, write_coco, write_voc


def run_eval(folder: Path, kind: str, results: Any, *arguments: str) -> int:
    """`detector eval` of a config that holds only the data set, and a pickle as the reference writes it."""
    if not any(folder.glob("*.json")) and not (folder / "VOC2007").exists():
        write(kind, folder)
    (folder / "config.py").write_text(f"data = dict(test={data_of(kind, folder)!r})\n")
    (folder / "results.pkl").write_bytes(pickle.dumps(results))
    return cli.main(["eval", str(folder / "config.py"), str(folder / "results.pkl"), *arguments])


CASES = [
    ("coco", ["bbox", "segm", "proposal"], []),
    ("coco", ["bbox", "segm", "proposal"], ["--evaluator", "pycocotools"]),
    ("coco", ["proposal_fast"], []),
    ("lvis", ["bbox", "segm", "proposal"], []),
    ("lvis0.5", ["bbox", "segm", "proposal_fast"], ["--evaluator", "pycocotools"]),
    ("voc", ["mAP"], ["--eval-options", "iou_thr=[0.5,0.75]"]),
    ("voc", ["recall"], []),
    ("panoptic", ["PQ", "bbox", "segm"], []),
    ("panoptic", ["PQ", "bbox"], ["--evaluator", "pycocotools"]),
]


@pytest.mark.parametrize(("kind", "metrics", "more"), CASES, ids=str)
def test_a_perfect_result_scores_one_on_every_metric(tmp_path, capsys, kind, metrics, more):
    assert (
        run_eval(tmp_path, kind, perfect(kind), "--eval", *metrics, *more, "--work-dir", str(tmp_path)) == 0
    )
    (written,) = tmp_path.glob("eval_*.json")
    values = json.loads(written.read_text())["metric"]
    numbers = {key: value for key, value in values.items() if isinstance(value, float) and value != -1}
    assert {value / 100 if key[:2] in ("PQ", "SQ", "RQ") else value for key, value in numbers.items()} == {
        1.0
    }
    assert len(numbers) >= 2
    printed = capsys.readouterr().out
    assert [key for key in numbers if f"{key}: {numbers[key]:.4f}" not in printed] == []


@pytest.mark.parametrize("kind", ["coco", "lvis", "voc", "panoptic"])
def test_the_class_table_is_printed(tmp_path, capsys, kind):
    metric = {"voc": "mAP", "panoptic": "PQ"}.get(kind, "bbox")
    assert run_eval(tmp_path, kind, perfect(kind), "--eval", metric, "--eval-options", "classwise=True") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith(("class", "cat", "dog"))] == [
        ["class", {"voc": "AP50", "panoptic": "PQ"}.get(kind, "bbox_AP")],
        ["cat", "100.0000" if kind == "panoptic" else "1.0000"],
        ["dog", "100.0000" if kind == "panoptic" else "1.0000"],
    ]


@pytest.mark.parametrize(
    ("kind", "arguments", "named"),
    [
        ("coco", ["bbox", "PQ"], ["--eval.PQ", "'bbox'"]),
        ("voc", ["bbox"], ["--eval.bbox", "'mAP', 'recall'"]),
        ("voc", ["mAP", "recall"], ["exactly one"]),
        ("voc", ["mAP", "--evaluator", "pycocotools"], ["evaluation.evaluator", "'iou_thr'"]),
        ("lvis", ["mAP"], ["--eval.mAP", "'segm'"]),
        ("lvis", ["bbox", "--eval-options", "metric_items=[mAP]"], ["evaluation.metric_items"]),
        ("panoptic", ["proposal"], ["--eval.proposal", "'PQ'"]),
        ("coco", ["bbox", "--eval-options", "iou_thr=0.5"], ["evaluation.iou_thr", "'iou_thrs'"]),
    ],
    ids=str,
)
def test_metrics_and_options_of_another_type_are_named(tmp_path, capsys, kind, arguments, named):
    assert run_eval(tmp_path, kind, perfect(kind), "--eval", *arguments) == 1
    printed = capsys.readouterr().err
    assert [part for part in named if part not in printed] == [], printed


@pytest.mark.parametrize("kind", ["coco", "lvis", "voc"])
def test_without_ground_truth_there_is_an_error_and_no_number(tmp_path, capsys, kind):
    if kind == "voc":
        write_voc(tmp_path, difficult=1)
    else:
        write_coco(tmp_path, lvis=True, annotated=False)
    assert run_eval(tmp_path, kind, perfect(kind), "--eval", "mAP" if kind == "voc" else "bbox") == 1
    printed = capsys.readouterr()
    assert "--format-only" in printed.err
    assert "-1" not in printed.out


@pytest.mark.parametrize("kind", ["coco", "lvis", "voc"])
def test_a_model_that_finds_nothing_scores_zero(tmp_path, capsys, kind):
    nothing = [[np.zeros((0, 5), np.float32) for _ in CLASSES] for _ in range(2)]
    assert run_eval(tmp_path, kind, nothing, "--eval", "mAP" if kind == "voc" else "bbox") == 0
    assert {"coco": "bbox_mAP: 0.0000", "lvis": "bbox_AP: 0.0000", "voc": "mAP: 0.0000"}[
        kind
    ] in capsys.readouterr().out


def test_a_pickle_without_maps_has_no_panoptic_quality(tmp_path, capsys):
    assert run_eval(tmp_path, "panoptic", perfect("coco"), "--eval", "PQ") == 1
    assert "no panoptic map" in capsys.readouterr().err
    assert run_eval(tmp_path, "panoptic", [{"pan_results": [1]}] * 2, "--eval", "PQ") == 1
    assert "expected `pan_results`" in capsys.readouterr().err
