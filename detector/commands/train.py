"""``detector train CONFIG``: the reference's ``tools/train.py``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.config import Config
    from detector.engine.launching import Job

HELP = "train a detector by a config"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("train", help=HELP, description=HELP)
    parser.add_argument("config", help="config file, or name such as mask_rcnn_r18_fpn_sample")
    parser.add_argument(
        "--work-dir",
        help="folder for logs and checkpoints (default: the config's work_dir, else work_dirs/<config name>)",
    )
    parser.add_argument(
        "--resume-from", help="checkpoint to continue from, with optimizer state and position"
    )
    parser.add_argument(
        "--auto-resume",
        action="store_true",
        help="continue from the furthest intact checkpoint in the work_dir, if there is one",
    )
    parser.add_argument("--no-validate", action="store_true", help="do not evaluate during training")
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--device", help="cpu, cuda or cuda:<number> (default: a GPU if there is one)")
    device.add_argument("--gpu-id", type=int, help="number of the GPU to use")
    device.add_argument("--gpu-ids", type=int, nargs="+", help="deprecated: the first one is used")
    add_processes(parser)
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="K",
        help="start all processes again up to K times when one fails, from the newest intact checkpoint",
    )
    parser.add_argument("--seed", type=int, help="seed of everything random (default: a random one, printed)")
    parser.add_argument(
        "--diff-seed", action="store_true", help="add the process's rank to the seed of each step"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="use deterministic kernels where there are any"
    )
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate by the batch size"
    )
    options = parser.add_mutually_exclusive_group()
    options.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override values of the config"
    )
    options.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="old name of --cfg-options"
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add what says how many processes run, and who started them."""
    from detector.engine.launchers import LAUNCHERS

    parser.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="start N processes on this machine, one GPU each (on the CPU without GPUs); the environment's "
        "NNODES, NODE_RANK, MASTER_ADDR and PORT (29500) join several machines",
    )
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default=None,
        help="who started this process (default: torchrun if it did, else none)",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is 143, 130 or 75 when a signal stopped the run after a checkpoint."""
    from detector.config import load_config, parse_options
    from detector.engine import launching, restarts
    from detector.engine.train import default_work_dir

    config = load_config(args.config, parse_options(args.cfg_options or args.options))
    work_dir = Path(args.work_dir) if args.work_dir else default_work_dir(config)
    launcher, job = processes(args, max_restarts=args.max_restarts)
    if job is None:
        return _train(args, config, work_dir, launcher)
    restarts.check_restarts(args.max_restarts, work_dir, auto_resume=args.auto_resume)
    return launching.launch(job, args.arguments, device=args.device)


def processes(args: argparse.Namespace, *, max_restarts: int = 0) -> tuple[str, Job | None]:
    """(launcher to join, None), or ('none', the processes to start)."""
    from detector.engine.launchers import choose_launcher

    launcher = choose_launcher(args.launcher, os.environ)
    if launcher != "none":
        return launcher, None
    from detector.engine import launching

    job = launching.read_job(args.gpus, max_restarts=max_restarts)
    if not job.several:
        return launcher, None
    launching.check_devices(args.device, args.gpu_ids or args.gpu_id)
    return launcher, job


def _train(args: argparse.Namespace, config: Config, work_dir: Path, launcher: str) -> int:
    """Train in this process, together with those of the launcher."""
    from detector.engine import distributed, restarts, slurm
    from detector.engine.interrupts import Interrupted
    from detector.engine.train import train

    distributed.export_local_rank(args.local_rank)
    resume_from, auto_resume = restarts.resume_choice(
        work_dir, args.resume_from, auto_resume=args.auto_resume
    )
    settings = config.data.get("dist_params") or {}
    device = _device(args)
    with distributed.session(launcher, settings.get("backend"), device=device, port=settings.get("port")):
        first = distributed.rank() == 0
        try:
            result = train(
                config,
                work_dir=work_dir,
                seed=args.seed,
                diff_seed=args.diff_seed,
                device=device,
                resume_from=resume_from,
                auto_resume=auto_resume,
                validate=not args.no_validate,
                deterministic=args.deterministic,
                auto_scale_lr=args.auto_scale_lr,
            )
        except Interrupted as stopped:
            if first:
                sys.stderr.write(f"{stopped}\n")
            return slurm.exit_code(stopped, os.environ, first=first)
        if first:
            print(f"checkpoint: {result.last}")
            if result.best is not None:
                print(f"best: {result.best}")
            print(f"log: {result.log_json}")
    return 0


def _device(args: argparse.Namespace) -> str | None:
    """Device of the arguments; None to choose."""
    if args.device is not None:
        return str(args.device)
    number = args.gpu_ids[0] if args.gpu_ids else args.gpu_id
    return None if number is None else f"cuda:{number}"
