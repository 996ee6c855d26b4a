"""``detector webcam-demo CONFIG CHECKPOINT``: the reference's ``demo/webcam_demo.py``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

HELP = "show the detections of a camera's frames; Esc, q or Q ends it"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("webcam-demo", help=HELP, description=HELP)
    parser.add_argument("config", help="config file or name")
    parser.add_argument("checkpoint", help="checkpoint file or address")
    parser.add_argument("--device", help="cpu, cuda or cuda:<number> (default: a GPU if there is one)")
    parser.add_argument(
        "--camera-id", default="0", help="number of the camera, or file or address of a stream (default 0)"
    )
    parser.add_argument(
        "--score-thr", type=float, default=0.5, help="detections with a higher score are drawn (default 0.5)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="also write a video (without a display: show/webcam.mp4)"
    )


def run(args: argparse.Namespace) -> int:
    """Show."""
    from detector.inference.demos import webcam_demo

    camera = int(args.camera_id) if args.camera_id.isdecimal() else args.camera_id
    sys.stderr.write("Esc, q or Q ends the demo, Ctrl-C too\n")
    done = webcam_demo(
        args.config,
        args.checkpoint,
        device=args.device,
        camera=camera,
        score_thr=args.score_thr,
        out=args.out,
    )
    for path in done.written:
        print(path)
    sys.stderr.write(f"{done.frames} frames, {done.fps:.1f} fps\n")
    return 0
