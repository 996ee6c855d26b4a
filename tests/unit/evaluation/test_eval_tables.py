"""Metrics as text."""

from __future__ import annotations

from detector.evaluation.tables import metric_lines


def test_single_numbers_come_first_then_one_table_of_the_classes():
    metrics = {
        "bbox_mAP": 0.5,
        "bbox_AP/cat": 0.75,
        "bbox_mAP_copypaste": "0.5000 -1.0000",
        "bbox_AP/sea otter": 0.25,
        "objects50/cat": 12,
    }
    assert metric_lines(metrics) == [
        "bbox_mAP: 0.5000",
        "bbox_mAP_copypaste: 0.5000 -1.0000",
        "",
        "class      bbox_AP  objects50",
        "-----------------------------",
        "cat         0.7500         12",
        "sea otter   0.2500          -",
    ]


def test_without_classes_there_is_no_table():
    assert metric_lines({"AR@100": 1.0}) == ["AR@100: 1.0000"]
    assert metric_lines({}) == []
