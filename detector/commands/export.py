"""``detector export CONFIG CHECKPOINT``: a model for another runtime."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "write a model as ONNX or TorchScript, and check the file"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    text = (
        "Write a single-stage or two-stage box detector for one image of a fixed size, and compare the "
        "file's detections with the model's on two made images."
    )
    parser = subparsers.add_parser("export", help=HELP, description=text)
    parser.add_argument("config", help="config file or name")
    parser.add_argument("checkpoint", help="checkpoint file or address")
    parser.add_argument("--format", choices=("onnx", "torchscript"), required=True, help="of the file")
    parser.add_argument(
        "--out", "--output-file", metavar="FILE", help="file to write (default: the config's name, here)"
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="of the network input (default: what the test pipeline makes of a 640 x 480 image)",
    )
    parser.add_argument("--boxes-only", action="store_true", help="leave the masks of a mask model out")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override values of the config"
    )


def run(args: argparse.Namespace) -> int:
    """Export, and say how well the file agrees."""
    from detector.config import load_config, parse_options
    from detector.export.exporting import export_model
    from detector.inference import init_detector

    config = load_config(args.config, parse_options(args.cfg_options))
    model = init_detector(config, args.checkpoint, device="cpu")
    shape = None if args.shape is None else (args.shape[0], args.shape[1])
    done = export_model(model, args.format, out=args.out, shape=shape, boxes_only=args.boxes_only)
    found = done.agreement
    print(f"written: {done.path}")
    print("input:   images (1, 3, {}, {}) float32, normalised".format(*done.input_hw))
    print("output:  boxes (N, 4) xyxy in pixels of the input, scores (N,), labels (N,)")
    print(
        f"check:   {found.matched} of {found.own} detections on two images agree (the file has "
        f"{found.file}), scores to {found.score:.1e}, boxes to {found.box:.1e} pixels"
    )
    if not found.own:
        print("         none were found on the two images, so the check says little")
    return 0
