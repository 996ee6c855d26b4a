"""Every data set's own metrics, through `detector eval`: perfect results, mistakes, nothing to compare."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detector import cli

BOX, OTHER = [10.0, 10.0, 30.0, 30.0], [40.0, 20.0, 55.0, 50.0]  # xyxy
SIZE = (60, 80)
CLASSES = ("cat", "dog")
PIPELINE = [{"type": "LoadImageFromFile"}]


def bitmap(box: list[float]) -> np.ndarray:
    """Column-major pixels of a box."""
    pixels = np.zeros(SIZE, np.uint8, order="F")
    x1, y1, x2, y2 = (int(v) for v in box)
    pixels[y1:y2, x1:x2] = 1
    return pixels


def objects(*, crowd: bool = False) -> list[dict[str, Any]]:
    """A cat in the first image and a dog in the second, with masks."""
    records = []
    for number, (box, category) in enumerate([(BOX, 3), (OTHER, 8)], start=1):
        x1, y1, x2, y2 = box
        outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        records.append(
            {
                **{"id": number, "image_id": number, "category_id": category, "iscrowd": int(crowd)},
                **{"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)},
                "segmentation": outline,
            }
        )
    return records


def write_coco(folder: Path, *, lvis: bool = False, annotated: bool = True, name: str = "ann.json") -> Path:
    """A COCO or LVIS file of two images."""
    extra = {"neg_category_ids": [], "not_exhaustive_category_ids": []} if lvis else {}
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1], **extra} for i in (1, 2)
        ],
        "categories": [{"id": i, "name": n, "frequency": "f"} for i, n in ((3, "cat"), (8, "dog"))],
        "annotations": objects() if annotated else [],
    }
    (folder / name).write_text(json.dumps(content))
    return folder / name


def write_voc(folder: Path, *, difficult: int = 0) -> None:
    """VOC2007 with the same objects; XML coordinates start at 1."""
    root = folder / "VOC2007"
    for part in ("Annotations", "JPEGImages"):
        (root / part).mkdir(parents=True)
    (root / "test.txt").write_text("1\n2\n")
    for number, (box, name) in enumerate([(BOX, "cat"), (OTHER, "dog")], start=1):
        cv2.imwrite(str(root / "JPEGImages" / f"{number}.jpg"), np.zeros((*SIZE, 3), np.uint8))
        corners = "".join(
            f"<{key}>{int(value) + 1}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        (root / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"
            "</annotation>"
        )


def write_panoptic(folder: Path) -> None:
    """The two objects on a floor, and their instance annotations."""
    write_coco(folder, name="instances.json")
    (folder / "png").mkdir()
    annotations = []
    for number, (box, category) in enumerate([(BOX, 3), (OTHER, 8)], start=1):
        pixels = np.where(bitmap(box) > 0, 500, 9)
        cv2.imwrite(
            str(folder / "png" / f"{number}.png"), np.stack([0 * pixels, pixels // 256, pixels % 256], -1)
        )
        segments = [
            {"id": i, "category_id": c, "iscrowd": 0, "area": int((pixels == i).sum()), "bbox": [0, 0, 9, 9]}
            for i, c in ((500, category), (9, 90))
        ]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    names = ((3, "cat", 1), (8, "dog", 1), (90, "floor", 0))
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)],
        "categories": [{"id": i, "name": n, "isthing": t} for i, n, t in names],
        "annotations": annotations,
    }
    (folder / "panoptic.json").write_text(json.dumps(content))


def data_of(kind: str, folder: Path) -> dict[str, Any]:
    """The data set section of a config."""
    base = {"pipeline": PIPELINE, "img_prefix": str(folder)}
    if kind == "voc":
        prefix = str(folder / "VOC2007")
        own = {
            "type": "VOCDataset",
            "ann_file": f"{prefix}/test.txt",
            "img_prefix": prefix,
            "classes": CLASSES,
        }
        return {**base, **own}
    if kind == "panoptic":
        own = {"type": "CocoPanopticDataset", "ann_file": str(folder / "panoptic.json")}
        return {
            **base,
            **own,
            "seg_prefix": str(folder / "png"),
            "ins_ann_file": str(folder / "instances.json"),
        }
    types = {"coco": "CocoDataset", "lvis0.5": "LVISV05Dataset", "lvis": "LVISDataset"}
    return {**base, "type": types[kind], "ann_file": str(folder / "ann.json"), "classes": CLASSES}


def perfect(kind: str) -> list[Any]:
    """What the reference's test tool would write for a perfect model."""
    found = []
    for label, box in enumerate((BOX, OTHER)):
        boxes = [np.zeros((0, 5), np.float32) for _ in CLASSES]
        rles: list[list[Any]] = [[], []]
        boxes[label] = np.array([[*box, 0.9]], np.float32)
        rles[label] = [coco_mask.encode(bitmap(box))]
        one: Any = boxes if kind == "voc" else (boxes, rles)
        if kind == "panoptic":
            one = {"pan_results": np.where(bitmap(box) > 0, 1000 + label, 2), "ins_results": one}
        found.append(one)
    return found


def run_eval(folder: Path, kind: str, results: Any, *arguments: str) -> int:
    """`detector eval` of a config that holds only the data set, and a pickle as the reference writes it."""
    makers = {"voc": write_voc, "panoptic": write_panoptic}
    if not any(folder.glob("*.json")) and not (folder / "VOC2007").exists():
        makers.get(kind, lambda path: write_coco(path, lvis=kind.startswith("lvis")))(folder)
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
