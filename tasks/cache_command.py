"""`python -m tasks cache`: what the steps have made and noted, why a step would run, and what may go.

python -m tasks cache list                        every receipt and whether it still verifies
python -m tasks cache why train --epochs 3        what differs from the nearest earlier run
python -m tasks cache prune --older-than 30d      remove receipts, and files that nothing refers to
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from detector.errors import ConfigError
from tasks import receipts, versioning
from tasks.digests import digest
from tasks.receipts import Kept, Plan
from tasks.registry import STEPS, request_for
from tasks.request import Request
from tasks.steps import lock_name, locked, receipt_path

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
Say = Callable[[str], None]


def parser() -> argparse.ArgumentParser:
    """The command line, but for ``why``, which takes the words of a step."""
    made = argparse.ArgumentParser(
        prog="python -m tasks cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = made.add_subparsers(dest="what", required=True)
    listed = kinds.add_parser("list", help="every receipt and whether it still verifies")
    listed.add_argument("step", nargs="?", choices=list(STEPS), help="only of this step")
    why = kinds.add_parser("why", help="what of a step's key differs from the nearest earlier run")
    why.add_argument("words", nargs=argparse.REMAINDER, help="STEP and its options, as for running it")
    prune = kinds.add_parser("prune", help="remove what proves nothing any more, or is old")
    prune.add_argument("--older-than", type=_duration, metavar="AGE", help="such as 30d or 12h")
    prune.add_argument("--keep", type=int, metavar="N", help="keep the newest N receipts of every step")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    for sub in (listed, prune):
        sub.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    return made


def _duration(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number with s, m, h, d or w, such as 30d")
    return float(found[1]) * UNITS[found[2]]


def main(argv: Sequence[str], request_of: Callable[[Sequence[str]], tuple[str, Request]], say: Say) -> int:
    """Run the command; 0 when there was nothing wrong.

    Args:
        argv: the words after ``cache``.
        request_of: a step and its request from the words that would run it.
        say: gets the lines.
    """
    arguments = parser().parse_args(argv)
    if arguments.what == "list":
        return show(receipts.receipts(STEPS), arguments.step, say)
    if arguments.what == "why":
        return explain(*request_of(arguments.words), say)
    if arguments.keep is not None and arguments.keep < 0:
        raise ConfigError(f"cache prune: found --keep {arguments.keep}; expected 0 or more. Correct it.")
    chosen = receipts.plan(
        receipts.receipts(STEPS), versioning.tracked(), older_than=arguments.older_than, keep=arguments.keep
    )
    return prune(chosen, dry_run=arguments.dry_run, yes=arguments.yes, say=say)


def show(found: Sequence[Kept], step: str | None, say: Say) -> int:
    """One line per receipt: step, key, when, outputs, size, and whether it verifies."""
    chosen = [kept for kept in found if step in (None, kept.receipt.step)]
    say(f"{'step':<9} {'key':<12} {'when':<16} {'files':>6} {'size':>10}  state")
    for kept in chosen:
        receipt = kept.receipt
        say(
            f"{receipt.step:<9} {_short(receipt.key)} {receipts.stamp(kept.when)} {len(receipt.outputs):>6} "
            f"{kept.size / 1e6:>7.1f} MB  {kept.why or 'verified'}"
        )
    return 0


def explain(name: str, asked: Request, say: Say) -> int:
    """Why a step would run: what differs from the nearest earlier run of it; 0 when it is done."""
    step: Any = STEPS[name]
    request = request_for(name, asked)
    parts = step.parts(request)
    key = f"{name}-{digest([name, parts])[:32]}"
    done, why = step.receipt(key)
    if done:
        say(f"{name}: done ({_short(key)}), nothing would run")
        return 0
    if receipt_path(key).is_file():
        say(f"{name}: would run: code, config and data are those of {_short(key)}, but {why}")
        return 1
    near = receipts.nearest(parts, [kept for kept in receipts.receipts(STEPS) if kept.receipt.step == name])
    if near is None:
        say(f"{name}: would run: it has not run yet, there is no receipt to compare with")
        return 1
    say(f"{name}: would run: differs from {_short(near.receipt.key)} of {receipts.stamp(near.when)} in")
    for line in receipts.differences(near.receipt, parts, step.explained(request)):
        say(f"  {line}")
    return 1


def prune(chosen: Plan, *, dry_run: bool, yes: bool, say: Say) -> int:
    """Say what goes, ask unless told not to, and remove it; what a running step holds stays.

    Raises:
        ConfigError: there is nobody to ask.
    """
    verb = "would remove" if dry_run else "remove"
    for kept, why in chosen.receipts.values():
        say(f"{verb} receipt {kept.receipt.step} {_short(kept.receipt.key)}: {why}")
    for path in chosen.files:
        say(f"{verb} file {path}")
    say(f"{len(chosen.receipts)} receipts and {len(chosen.files)} files, {chosen.size / 1e6:.1f} MB")
    if dry_run or not chosen.receipts:
        return 0
    if not yes and not _agreed():
        say("nothing removed")
        return 1
    for key, (kept, _) in chosen.receipts.items():
        lock = lock_name(kept.receipt.step, kept.receipt.parts.get("outputs", []))
        try:
            with locked(lock, say, wait=False):
                receipts.remove(chosen, [key])
        except BlockingIOError:
            say(f"{kept.receipt.step} {_short(key)} stays: a running step has its place")
    return 0


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(
            "cache prune: found no terminal to ask at; expected an answer. Add --yes or --dry-run."
        )
    return input("Remove them? [y/N] ").strip().lower() in ("y", "yes")


def _short(key: str) -> str:
    return key.rpartition("-")[2][: receipts.SHORT]
