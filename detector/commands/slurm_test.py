"""``detector slurm-test PARTITION JOB CONFIG CHECKPOINT``: the reference's ``tools/slurm_test.sh``."""

from __future__ import annotations

import argparse
from typing import Any

from detector.commands.slurm_train import ENVIRONMENT, add_job, add_rest, submit

HELP = "test a detector as a job of Slurm"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("slurm-test", help=HELP, description=HELP, epilog=ENVIRONMENT)
    add_job(parser)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint file")
    add_rest(parser, "test")


def run(args: argparse.Namespace) -> int:
    """Become srun."""
    from detector.engine import slurm

    return submit(args, ["test", slurm.checked_config(args.config), args.checkpoint, "--launcher=slurm"])
