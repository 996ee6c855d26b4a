"""``detector lineage FILE``: what a file was made from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HELP = "show what a checkpoint, results file, metrics json, submission zip or picture was made from"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("lineage", help=HELP, description=HELP)
    parser.add_argument("file", type=Path, help="a file that this project wrote")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as json")
    form.add_argument("--config", action="store_true", help="only the text of the effective config")


def run(args: argparse.Namespace) -> int:
    """Show."""
    from detector.lineage.reading import lines, read_stamp
    from detector.lineage.stamp import LineageError

    stamp = read_stamp(args.file)
    if args.json:
        sys.stdout.write(json.dumps(stamp, indent=1, default=str) + "\n")
    elif args.config:
        text = (stamp.get("config") or {}).get("text")
        if not text:
            raise LineageError(
                f"{args.file}: its stamp has no text of a config, only what `detector lineage {args.file}` "
                "prints; expected a checkpoint, results.pkl or metrics json. Ask one of those."
            )
        sys.stdout.write(text)
    else:
        for line in lines(stamp):
            print(line)
    return 0
