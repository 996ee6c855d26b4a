"""``detector video-demo VIDEO CONFIG CHECKPOINT``: the reference's ``demo/video_demo.py``."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

HELP = "draw the detections of every frame of a video"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("video-demo", help=HELP, description=HELP)
    parser.add_argument("video", help="video file")
    parser.add_argument("config", help="config file or name")
    parser.add_argument("checkpoint", help="checkpoint file or address")
    parser.add_argument("--device", help="cpu, cuda or cuda:<number> (default: a GPU if there is one)")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="detections with a higher score are drawn (default 0.3)"
    )
    parser.add_argument("--out", metavar="FILE", help="video to write, of the source's size and speed")
    parser.add_argument(
        "--show", action="store_true", help="open a window; without a display a video is written to show/"
    )
    parser.add_argument(
        "--wait-time",
        type=float,
        default=1,
        help="milliseconds that a frame stays in the window; 0 waits for a key (default 1)",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="frames per forward pass (default 1)")


def run(args: argparse.Namespace) -> int:
    """Draw."""
    from detector.inference.demos import video_demo

    done = video_demo(
        args.video,
        args.config,
        args.checkpoint,
        device=args.device,
        score_thr=args.score_thr,
        out=args.out,
        show=args.show,
        wait_ms=math.ceil(args.wait_time),
        batch_size=args.batch_size,
    )
    for path in done.written:
        print(path)
    ended = ", stopped" if done.stopped else ""
    sys.stderr.write(f"{done.frames} frames, {done.fps:.1f} fps with decoding and drawing{ended}\n")
    return 0
