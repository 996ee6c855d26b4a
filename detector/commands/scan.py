"""``detector scan DATA``: look through a data set for what spoils training, and write a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "check every image and annotation of a data set, and write a report"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    text = (
        "Check every image and annotation of a data set: damaged, missing, turned and repeated files, wrong "
        "boxes and masks, the same images in two splits. Writes scan.json, scan.png and scan.html. "
        "Exit code 1 when there are problems."
    )
    parser = subparsers.add_parser("scan", help=HELP, description=text)
    parser.add_argument(
        "data", help="COCO-format .json, VOC folder, or config (its train, val and test data sets)"
    )
    parser.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="DIR",
        help="folder of the images of DATA; given again, that of --against (without: annotations only)",
    )
    parser.add_argument(
        "--against", metavar="OTHER", help="another .json or VOC folder, to look for images that are in both"
    )
    parser.add_argument("--out", default="scan", metavar="DIR", help="folder of the report (default: scan)")
    parser.add_argument(
        "--nproc", type=int, default=1, metavar="N", help="processes that decode (default: 1)"
    )
    parser.add_argument(
        "--near",
        type=int,
        nargs="?",
        const=4,
        metavar="BITS",
        help="also find images that look alike: at most BITS (default 4) of their 64-bit hashes differ",
    )
    parser.add_argument(
        "--samples", type=int, default=8, metavar="N", help="images shown of each sort (default: 8)"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override values of the config"
    )


def run(args: argparse.Namespace) -> int:
    """Scan, write the report and say what was found."""
    from detector.data.scan import sources
    from detector.data.scan.findings import count_by_severity
    from detector.data.scan.report import as_lines, write_report
    from detector.data.scan.run import scan
    from detector.progress import Progress

    sources.check_request(args.data, args.images, args.against, nproc=args.nproc, near=args.near)
    if sources.is_config(args.data):
        from detector.config import load_config, parse_options

        config = load_config(args.data, parse_options(args.cfg_options))
        sets = sources.contents_of_config(config.data.get("data") or {})
    else:
        sets = sources.contents_of_request(args.data, args.images)
    if args.against:
        sets += sources.compared_contents(args.against, args.images, taken={c.title for c in sets})
    with Progress(None, "scan", enabled=any(c.images_dir for c in sets)) as progress:
        found = scan(sets, nproc=args.nproc, near=args.near, progress=progress)
    paths = write_report(found, Path(args.out), samples=args.samples)
    for line in as_lines(found):
        print(line)
    print(f"report: {', '.join(map(str, paths))}")
    return 1 if count_by_severity(found.findings)["problem"] else 0
