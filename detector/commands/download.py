"""``detector download NAME``: bring a data set into the store."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

HELP = "fetch or generate a data set"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("download", help=HELP, description=HELP)
    parser.add_argument("name", help="data set: sample (generated), coco, voc, cityscapes")
    parser.add_argument(
        "--store", help="folder of all data sets (default: DETECTOR_DATASETS, else .datasets)"
    )
    parser.add_argument("--nproc", type=int, default=1, help="processes for generating (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Download or generate what is missing."""
    from detector.data.download import default_store, download
    from detector.progress import Progress

    with ExitStack() as stack:

        def progress(what: str) -> Callable[[int, int], None]:
            unit = "it" if what.startswith("draw") else "B"
            return stack.enter_context(Progress(None, what, unit=unit))

        place = download(args.name, args.store or default_store(), processes=args.nproc, progress=progress)
    print(f"{args.name} is in {place}")
    return 0
