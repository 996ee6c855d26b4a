"""`python -m tasks tracking sync [FOLDER ...]`: tell MLflow what it was not told while it did not answer."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks import tracking

Say = Callable[[str], None]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tasks tracking", description=__doc__)
    kinds = made.add_subparsers(dest="what", required=True)
    sync = kinds.add_parser(
        "sync", help="send what runs have noted and MLflow does not have; again is harmless"
    )
    sync.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="runs, or above (default: runs)"
    )
    sync.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    return made


def main(argv: Sequence[str], say: Say) -> int:
    """Run the command; 0 when nothing is left to send."""
    arguments = parser().parse_args(argv)
    done = tracking.sync(arguments.folders, say)
    counts = {state: sum(one.state == state for one in done) for state in ("sent", "busy", "failed")}
    say(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    return 1 if counts["failed"] else 0
