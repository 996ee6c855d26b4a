"""``detector doctor CONFIG [CHECKPOINT]``: does everything fit together, before a model runs?"""

from __future__ import annotations

import argparse
from typing import Any

HELP = "check that data, classes, model, checkpoint, disk and memory fit together"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    text = (
        "Check that data, classes, model, checkpoint, disk and memory fit together, in seconds and without "
        "running the model. Exit code 1 when there are problems."
    )
    parser = subparsers.add_parser("doctor", help=HELP, description=text)
    parser.add_argument("config", help="config file or name")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint file that is meant for the config")
    parser.add_argument("--work-dir", help="where a training would write (default: as for train)")
    parser.add_argument("--device", help="cpu, cuda or cuda:<number> (default: a GPU if there is one)")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override values of the config"
    )


def run(args: argparse.Namespace) -> int:
    """Check, and print one row per check."""
    import shutil

    from detector.config import load_config, parse_options
    from detector.engine import distributed
    from detector.engine.preflight_doctor import examine
    from detector.engine.preflight_result import PROBLEM, as_table

    config = load_config(args.config, parse_options(args.cfg_options))
    device = distributed.resolve_device(args.device)
    checks = list(examine(config, args.checkpoint, work_dir=args.work_dir, device=device))
    for line in as_table(checks, width=shutil.get_terminal_size((110, 24)).columns):
        print(line)
    return int(any(check.status == PROBLEM for check in checks))
