"""``detector zoo list`` and ``detector zoo download NAME``: the models that MMDetection 2.x published."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.zoo.index import ZooModel

HELP = "list the published models, or download the weights of one"
METRICS = ("box AP", "mask AP", "PQ", "AR@1000")


def add_parser(subparsers: Any) -> None:
    """Add the command, its actions and their arguments."""
    parser = subparsers.add_parser("zoo", help=HELP, description=HELP)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="name, family and reported numbers of the models")
    listing.add_argument("--family", help="only this one, such as faster_rcnn")
    listing.add_argument("--supported", action="store_true", help="only models that run here")
    listing.add_argument("--json", action="store_true", help="all that is known, as json")
    fetching = actions.add_parser("download", help="fetch the weights of models; checks their sha256")
    fetching.add_argument("names", nargs="+", metavar="NAME", help="such as mask_rcnn_r50_fpn_1x_coco")
    fetching.add_argument(
        "--out-dir", type=Path, help="folder for the files (default: DETECTOR_CACHE/weights, .cache/weights)"
    )


def run(args: argparse.Namespace) -> int:
    """List or download."""
    from detector.zoo.index import select

    if args.action == "download":
        return _download(args.names, args.out_dir)
    chosen = select(family=args.family, supported=args.supported)
    if args.json:
        sys.stdout.write(json.dumps([model.as_dict() for model in chosen], indent=1) + "\n")
    else:
        sys.stdout.write(table(chosen))
        runs = sum(model.supported for model in chosen)
        sys.stderr.write(f"{len(chosen)} models, {runs} supported\n")
    return 0


def table(chosen: list[ZooModel]) -> str:
    """One aligned line per model; a column of numbers that no model has is left out."""
    shown = [name for name in METRICS if name in METRICS[:2] or any(name in m.metrics for m in chosen)]
    rows = [["name", "family", *shown, "supported"]]
    for model in chosen:
        numbers = [f"{model.metrics[name]:.1f}" if name in model.metrics else "-" for name in shown]
        rows.append([model.name, model.family, *numbers, "yes" if model.supported else "no"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = (0, 1, len(widths) - 1)
    return "".join(
        "  ".join(
            cell.ljust(width) if i in texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in rows
    )


def _download(names: list[str], folder: Path | None) -> int:
    """Fetch weights; prints their paths."""
    from detector.checkpoint.weights import fetch_weights, resolve_weights
    from detector.progress import Progress
    from detector.zoo.index import find_model

    chosen = [find_model(name) for name in names]
    for model in chosen:
        if not model.supported:
            sys.stderr.write(f"{model.name} does not run here yet: {', '.join(model.lacking)}\n")
        with ExitStack() as stack:

            def progress(name: str, stack: ExitStack = stack) -> Callable[[int, int], None]:
                return stack.enter_context(Progress(None, f"fetch {name}", unit="B"))

            if folder is None:
                path = resolve_weights(model.weights, progress=progress)
            else:
                path = fetch_weights(model.weights, folder / model.file_name, progress=progress)
        print(path)
    return 0
