"""Metrics as lines of text: one per number, and a table for the numbers of single classes."""

from __future__ import annotations

from collections.abc import Mapping


def metric_lines(metrics: Mapping[str, float | str]) -> list[str]:
    """Lines to print: ``name: value`` with 4 decimals, then one table of all ``<column>/<class>`` keys.

    A class that a column does not have gets a dash. Empty metrics give no line.
    """
    plain = {name: value for name, value in metrics.items() if "/" not in name}
    lines = [f"{name}: {_text(value)}" for name, value in plain.items()]
    cells: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    for name, value in metrics.items():
        column, found, class_name = name.partition("/")
        if found:
            cells.setdefault(class_name, {})[column] = _text(value)
            columns += [column] * (column not in columns)
    if not cells:
        return lines
    rows = [["class", *columns]]
    rows += [[name, *(found.get(column, "-") for column in columns)] for name, found in cells.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return [*lines, "", table[0], "-" * len(table[0]), *table[1:]]


def _text(value: float | str) -> str:
    """A number with 4 decimals, a count or a text as it is."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
