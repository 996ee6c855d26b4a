"""``detector train CONFIG``: the reference's ``tools/train.py``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

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
    device.add_argument("--gpus", type=int, help="deprecated: one GPU is used")
    device.add_argument("--gpu-ids", type=int, nargs="+", help="deprecated: the first one is used")
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
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch"),
        default="none",
        help="who started the processes",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is 143 or 130 when a signal stopped the run after a checkpoint."""
    from detector.config import load_config, parse_options
    from detector.engine import distributed
    from detector.engine.interrupts import Interrupted
    from detector.engine.train import default_work_dir, train

    config = load_config(args.config, parse_options(args.cfg_options or args.options))
    distributed.export_local_rank(args.local_rank)
    backend = (config.data.get("dist_params") or {}).get("backend")
    with distributed.session(args.launcher, backend):
        try:
            result = train(
                config,
                work_dir=Path(args.work_dir) if args.work_dir else default_work_dir(config),
                seed=args.seed,
                diff_seed=args.diff_seed,
                device=_device(args),
                resume_from=args.resume_from,
                auto_resume=args.auto_resume,
                validate=not args.no_validate,
                deterministic=args.deterministic,
                auto_scale_lr=args.auto_scale_lr,
            )
        except Interrupted as stopped:
            sys.stderr.write(f"{stopped}\n")
            return stopped.exit_code
        if distributed.rank() == 0:
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
