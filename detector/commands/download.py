"""``detector download NAME``: bring a data set into the store."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "fetch or generate a data set"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("download", help=HELP, description=HELP)
    parser.add_argument(
        "name", help="data set: sample (generated), coco, voc, cityscapes, lvis_v0.5, lvis_v1"
    )
    parser.add_argument(
        "--store", help="folder of all data sets (default: DETECTOR_DATASETS, else .datasets)"
    )
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these parts; see --list")
    parser.add_argument("--list", action="store_true", help="say what the data set consists of, and end")
    parser.add_argument(
        "--mirror",
        action="append",
        metavar="URL|FOLDER",
        help="server or folder that holds the archives by name, instead of their own servers; may be "
        "repeated (default: DETECTOR_MIRROR)",
    )
    parser.add_argument(
        "--connections", type=int, default=4, help="parts of one file fetched at once (default: 4)"
    )
    parser.add_argument("--nproc", type=int, default=1, help="processes for generating (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Download or generate what is missing."""
    from detector.data.download import Bars, default_store, download, load_source

    if args.list:
        print("\n".join(load_source(args.name).lines()))
        return 0
    with Bars() as bars:
        place = download(
            args.name,
            args.store or default_store(),
            parts=args.parts,
            mirrors=args.mirror,
            connections=args.connections,
            processes=args.nproc,
            progress=bars,
        )
    print(f"{args.name} is in {place}")
    return 0
