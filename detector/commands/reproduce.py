"""``detector reproduce FILE``: the commands that make a file again, told or run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HELP = "print the commands that make a file again, or run them and compare"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("reproduce", help=HELP, description=HELP)
    parser.add_argument("file", type=Path, help="a checkpoint, results.pkl or other file that has a lineage")
    parser.add_argument(
        "--folder",
        type=Path,
        help="for the effective config, the code of the file's commit and what is made (default: "
        "reproduced/<name of the file>)",
    )
    parser.add_argument(
        "--run",
        action="store_true",
        help="run the commands, then compare: the weights of a checkpoint, the results of a results.pkl; "
        "exit code 1 where they differ",
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="use this code and environment, instead of a clone at the file's commit with its own",
    )
    parser.add_argument("--checkpoint", help="of a results.pkl: the checkpoint, where it was moved")


def run(args: argparse.Namespace) -> int:
    """Print or run."""
    from detector.lineage.reproducing import recipe, run

    folder = args.folder or Path("reproduced") / args.file.stem
    made = recipe(args.file, folder, here=args.here, checkpoint=args.checkpoint)
    if not args.run:
        for line in made.lines():
            print(line)
        return 0
    for note in made.notes:
        sys.stderr.write(f"{note}\n")
    return 0 if run(made, folder, print_now) else 1


def print_now(line: str) -> None:
    """Print a line before the next command says its own."""
    print(line, flush=True)
