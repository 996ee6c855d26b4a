"""``detector image-demo IMG CONFIG CHECKPOINT``: the reference's ``demo/image_demo.py``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

HELP = "draw the detections of an image, a folder or a pattern"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("image-demo", help=HELP, description=HELP)
    parser.add_argument(
        "img", help="image, folder, pattern in quotes ('photos/*.jpg'), or - for a list on standard input"
    )
    parser.add_argument("config", help="config file or name")
    parser.add_argument("checkpoint", help="checkpoint file or address")
    parser.add_argument(
        "--out-file",
        "--out",
        metavar="FILE",
        help="picture to write, of several images the folder (default: a window, or without a display the "
        "folder 'show')",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:<number> (default: a GPU if there is one)")
    parser.add_argument(
        "--palette",
        choices=("coco", "voc", "citys", "random"),
        help="colours of this data set (default: those of the model's)",
    )
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="detections with a higher score are drawn (default 0.3)"
    )
    parser.add_argument("--async-test", action="store_true", help="run several images at once")


def run(args: argparse.Namespace) -> int:
    """Draw."""
    from detector.inference.demos import image_demo

    done = image_demo(
        args.img,
        args.config,
        args.checkpoint,
        out_file=args.out_file,
        device=args.device,
        palette=args.palette,
        score_thr=args.score_thr,
        async_test=args.async_test,
    )
    for path in done.written:
        print(path)
    what = "image" if done.frames == 1 else "images"
    sys.stderr.write(f"{done.frames} {what}, {done.fps:.1f} fps with drawing\n")
    return 0
