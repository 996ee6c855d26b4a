"""``detector check-submission PATH``: what a test server would refuse, found without sending anything."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "check files for a test server before they are uploaded, and zip them"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("check-submission", help=HELP, description=HELP)
    parser.add_argument("path", help="results file, folder or zip, as `detector test --format-only` writes")
    parser.add_argument(
        "--annotations",
        help="COCO-format file of the split, image info is enough, or VOC's list of images; without it ids, "
        "sizes and missing images are not checked",
    )
    parser.add_argument("--kind", help="coco, cityscapes, lvis or voc (default: told from the files' names)")
    parser.add_argument("--zip", metavar="OUT.zip", help="write the zip if no fault is found")
    parser.add_argument(
        "--max-megabytes", type=float, help="largest zip that the server takes (default: 300 for COCO)"
    )
    parser.add_argument("--show", type=int, default=3, help="places shown of each kind of fault (default: 3)")


def run(args: argparse.Namespace) -> int:
    """Check, print the report, write the zip; 1 if there is a fault."""
    from detector.evaluation.submissions.check import check_submission, pack

    report = check_submission(
        args.path,
        annotations=args.annotations,
        kind=args.kind,
        max_megabytes=args.max_megabytes,
        shown=args.show,
    )
    for line in report.lines():
        print(line)
    if not report.fits:
        return 1
    if args.zip:
        print(f"written: {pack(report, args.zip)}")
    return 0
