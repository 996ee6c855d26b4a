"""``detector slurm-train PARTITION JOB CONFIG WORK_DIR``: the reference's ``tools/slurm_train.sh``."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "train a detector as a job of Slurm"
ENVIRONMENT = (
    "The environment says how: GPUS (8) processes in all, GPUS_PER_NODE (8; 0 for the CPU), CPUS_PER_TASK "
    "(5), SRUN_ARGS for srun. A run that Slurm stopped continues when the same command runs again."
)


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("slurm-train", help=HELP, description=HELP, epilog=ENVIRONMENT)
    add_job(parser)
    parser.add_argument("work_dir", metavar="WORK_DIR", help="folder for logs and checkpoints")
    add_rest(parser, "train")


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add what both commands begin with."""
    parser.add_argument("--dry-run", action="store_true", help="print the srun command, run nothing")
    parser.add_argument("partition", metavar="PARTITION", help="partition of the cluster")
    parser.add_argument("job", metavar="JOB", help="name of the job")
    parser.add_argument("config", metavar="CONFIG", help="config file or name")


def add_rest(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the arguments that are passed on."""
    parser.add_argument(
        "rest", metavar="ARGUMENT", nargs=argparse.REMAINDER, help=f"arguments of `detector {command}`"
    )


def run(args: argparse.Namespace) -> int:
    """Become srun."""
    from detector.engine import slurm

    command = ["train", slurm.checked_config(args.config), f"--work-dir={args.work_dir}"]
    return submit(args, [*command, "--launcher=slurm", "--auto-resume"])


def submit(args: argparse.Namespace, command: list[str]) -> int:
    """Print the srun command, and run it unless --dry-run stands before or after the other arguments."""
    from detector.engine import slurm

    rest = [argument for argument in args.rest if argument != "--dry-run"]
    line = slurm.srun_line(args.partition, args.job, [*command, *rest])
    return slurm.run_line(line, dry_run=args.dry_run or len(rest) < len(args.rest))
