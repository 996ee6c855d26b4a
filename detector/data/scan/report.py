"""The files of a scan: every finding as json, the picture, and one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.data.scan.contents import Contents
from detector.data.scan.findings import KINDS, Finding, count_by_kind, count_by_severity
from detector.data.scan.panel import draw_panel
from detector.data.scan.run import Scan
from detector.whole_files import replacing

#: findings of one kind that the page lists; all are in the json
SHOWN = 200

STYLE = """
:root { --problem: #b42318; --warning: #b54708; --note: #475467; --line: #e4e7ec; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 24px 28px 60px; color: #1d2939; background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 34px 0 10px; }
p.lead { color: var(--note); margin: 0 0 18px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 6px 12px 6px 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--note); font-size: 13px; } td.n, th.n { text-align: right; }
td.n { font-variant-numeric: tabular-nums; }
.tag { display: inline-block; padding: 1px 8px; border-radius: 10px; font-size: 12.5px; color: #fff; }
.problem { background: var(--problem); } .warning { background: var(--warning); }
.note { background: var(--note); }
.tiles { display: flex; gap: 14px; flex-wrap: wrap; margin: 16px 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 18px; min-width: 130px; }
.tile b { display: block; font-size: 24px; } .tile span { color: var(--note); font-size: 13px; }
details { border: 1px solid var(--line); border-radius: 8px; margin: 10px 0; padding: 10px 16px; }
summary { cursor: pointer; font-weight: 600; } summary .count { color: var(--note); font-weight: 400; }
details p { color: var(--note); margin: 6px 0 8px; }
details td { font-size: 13.5px; overflow-wrap: anywhere; }
td.file { width: 30%; font-family: ui-monospace, monospace; }
img { width: 100%; border: 1px solid var(--line); border-radius: 8px; }
.good { color: #067647; font-weight: 600; }
"""


def write_report(scan: Scan, out_dir: Path, *, samples: int = 8) -> list[Path]:
    """Write scan.json, scan.png and scan.html; each appears whole.

    Args:
        scan: what was found.
        out_dir: folder, made when missing.
        samples: how many images the picture shows of each sort.
    """
    stream = io.BytesIO()
    draw_panel(scan, samples=samples).save(stream, "PNG", optimize=True)
    files = {
        "scan.json": (json.dumps(as_document(scan), indent=1, allow_nan=False) + "\n").encode(),
        "scan.png": stream.getvalue(),
        "scan.html": as_page(scan, stream.getvalue()).encode(),
    }
    paths = []
    for name, content in files.items():
        with replacing(out_dir / name) as file:
            file.write(content)
        paths.append(out_dir / name)
    return paths


def as_document(scan: Scan) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    return {
        "data_sets": [_numbers(contents) for contents in scan.sets],
        "counts": count_by_kind(scan.findings),
        "severities": count_by_severity(scan.findings),
        "findings": [
            {
                "kind": f.kind,
                "severity": KINDS[f.kind].severity,
                "data_set": f.data_set,
                "subject": f.subject,
                "annotation": f.annotation,
                "detail": f.detail,
            }
            for f in scan.findings
        ],
    }


def _numbers(contents: Contents) -> dict[str, Any]:
    """One data set in numbers."""
    counts = {name: int((contents.category_ids == key).sum()) for key, name in contents.categories.items()}
    return {
        "title": contents.title,
        "images_dir": None if contents.images_dir is None else str(contents.images_dir),
        "checked": contents.checked,
        "images": len(contents.names),
        "annotations": len(contents.rows),
        "crowds": int(contents.crowd.sum()),
        "objects_per_class": counts,
    }


def as_lines(scan: Scan) -> list[str]:
    """The result for a terminal: one line per kind, the grave ones with their first examples."""
    counts = count_by_kind(scan.findings)
    lines = [
        f"{c.title}: {len(c.names)} images, {len(c.rows)} annotations, {len(c.categories)} classes"
        + ("" if c.images_dir is not None else "; files not looked at (no --images)")
        for c in scan.sets
        if c.checked
    ]
    if scan.files:
        speed = scan.files / max(scan.seconds, 1e-9)
        lines.append(f"{scan.files} files read in {scan.seconds:.1f} s ({speed:.0f} images/s)")
    for kind, count in counts.items():
        row = KINDS[kind]
        lines.append(f"{row.severity:8} {count:6} {kind}: {row.title}. {row.advice}")
        if row.severity != "note":
            first = [f for f in scan.findings if f.kind == kind][:3]
            lines += [f"{'':16}{_place(f)}: {f.detail}" for f in first]
    total = count_by_severity(scan.findings)
    return [*lines, ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in total.items())]


def _place(finding: Finding) -> str:
    about = "" if finding.annotation is None else f" annotation {finding.annotation}"
    return f"{finding.data_set}: {finding.subject}{about}"


def as_page(scan: Scan, picture: bytes) -> str:
    """The HTML page."""
    data = base64.b64encode(picture).decode()
    body = [
        "<h1>Data scan</h1>",
        f"<p class='lead'>{html.escape(_lead(scan))}</p>",
        _tiles(scan),
        _set_table(scan.sets),
        "<h2>What was found</h2>",
        _kind_table(scan),
        "<h2>The data in pictures</h2>",
        f"<img alt='charts and sample images' src='data:image/png;base64,{data}'>",
        *(["<h2>Every finding</h2>"] if scan.findings else []),
        *[_details(scan, kind) for kind in count_by_kind(scan.findings)],
    ]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>Data scan</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _lead(scan: Scan) -> str:
    read = (
        f"{scan.files:,} files decoded or hashed in {scan.seconds:.1f} s."
        if scan.files
        else "No file was read."
    )
    return "; ".join(c.title for c in scan.sets) + f". {read}"


def _tiles(scan: Scan) -> str:
    sets = [c for c in scan.sets if c.checked]
    numbers = {
        "images": sum(len(c.names) for c in sets),
        "objects": sum(len(c.rows) for c in sets),
        "classes": len({name for c in sets for name in c.categories.values()}),
        **{f"{word}s": count for word, count in count_by_severity(scan.findings).items()},
    }
    tiles = [
        f"<div class='tile'><b>{count:,}</b><span>{word}</span></div>" for word, count in numbers.items()
    ]
    return f"<div class='tiles'>{''.join(tiles)}</div>"


def _set_table(sets: Sequence[Contents]) -> str:
    rows = []
    for contents in sets:
        folder = "not looked at" if contents.images_dir is None else str(contents.images_dir)
        role = "" if contents.checked else " (compared with only)"
        rows.append(
            f"<tr><td>{html.escape(contents.title + role)}</td><td>{html.escape(folder)}</td>"
            f"<td class='n'>{len(contents.names):,}</td><td class='n'>{len(contents.rows):,}</td>"
            f"<td class='n'>{len(contents.categories):,}</td></tr>"
        )
    head = "<th>data set</th><th>image folder</th><th class='n'>images</th><th class='n'>objects</th>"
    return f"<table><tr>{head}<th class='n'>classes</th></tr>{''.join(rows)}</table>"


def _kind_table(scan: Scan) -> str:
    rows = []
    for kind, count in count_by_kind(scan.findings).items():
        row = KINDS[kind]
        rows.append(
            f"<tr><td><span class='tag {row.severity}'>{row.severity}</span></td><td class='n'>{count:,}</td>"
            f"<td><a href='#{kind}'>{html.escape(row.title)}</a></td><td>{html.escape(row.advice)}</td></tr>"
        )
    if not rows:
        return "<p class='good'>Nothing.</p>"
    head = "<th></th><th class='n'>count</th><th>what</th><th>what to do</th>"
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _details(scan: Scan, kind: str) -> str:
    """The findings of one kind, the first ``SHOWN`` of them."""
    found = [f for f in scan.findings if f.kind == kind]
    row = KINDS[kind]
    rows = [
        f"<tr><td>{html.escape(f.data_set)}</td><td class='file'>{html.escape(f.subject)}</td>"
        f"<td>{'' if f.annotation is None else html.escape(str(f.annotation))}</td>"
        f"<td>{html.escape(f.detail)}</td></tr>"
        for f in found[:SHOWN]
    ]
    more = f"<p>and {len(found) - SHOWN:,} more in scan.json</p>" if len(found) > SHOWN else ""
    opened = " open" if len(found) <= 12 and row.severity != "note" else ""
    return (
        f"<details id='{kind}'{opened}><summary><span class='tag {row.severity}'>{row.severity}</span> "
        f"{html.escape(row.title)} <span class='count'>({len(found):,})</span></summary>"
        f"<p>{html.escape(row.advice)}</p><table><tr><th>data set</th><th>file</th><th>annotation</th>"
        f"<th>found</th></tr>{''.join(rows)}</table>{more}</details>"
    )
