"""``detector link NAME``: link a data set's folders from the store below ``data/``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "link a data set's folders below data/"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("link", help=HELP, description=HELP)
    parser.add_argument("name", help="data set: sample, coco, voc, cityscapes, lvis_v0.5, lvis_v1")
    parser.add_argument(
        "--store", help="folder of all data sets (default: DETECTOR_DATASETS, else .datasets)"
    )
    parser.add_argument("--data-root", default="data", help="the project's data folder (default: data)")


def run(args: argparse.Namespace) -> int:
    """Link the parts and copy COCO-format annotations; what is there already is kept or named."""
    from detector.data.converters.coco_files import annotate_linked
    from detector.data.download import default_store, link

    for path in link(args.name, args.store or default_store(), Path(args.data_root)):
        print(f"{path} -> {path.readlink()}")
    annotate_linked(Path(args.data_root) / args.name, note=print)
    return 0
