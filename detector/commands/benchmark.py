"""``detector benchmark CONFIG [CHECKPOINT]``: how fast a model detects here, and what takes the time."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "measure a model's speed, latency, memory and stages"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    text = (
        "Measure a model from image files to results: images per second, percentiles of the latency, memory, "
        "and the time of decoding, preprocessing, the network, post-processing and mask encoding."
    )
    parser = subparsers.add_parser("benchmark", help=HELP, description=text)
    parser.add_argument("config", help="config file or name")
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="checkpoint file or address (without: untrained weights, few detections)",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="folder, file or pattern (without: four made images of 640 x 480)"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:<number> (default: a GPU if there is one)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images per forward pass")
    parser.add_argument(
        "--repeat", type=int, default=10, metavar="N", help="passes over the images that count (default 10)"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the convolutions and layers"
    )
    parser.add_argument("--compile", action="store_true", help="compile backbone and neck by torch.compile")
    parser.add_argument(
        "--fuse-conv-bn", action="store_true", help="fold batch norms into convolutions before running"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch on the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override values of the config"
    )


def run(args: argparse.Namespace) -> int:
    """Build the model, measure it, and print what was found."""
    import json

    from detector.config import load_config, parse_options
    from detector.engine import distributed
    from detector.inference import init_detector
    from detector.inference.benchmark import as_table, measure, use_threads

    use_threads(args.threads)
    model = init_detector(
        load_config(args.config, parse_options(args.cfg_options)),
        args.checkpoint,
        device=str(distributed.resolve_device(args.device)),
        precision=args.precision,
        compile=args.compile,
        fuse_conv_bn=args.fuse_conv_bn,
    )
    speed = measure(model, images=args.images, batch_size=args.batch_size, repeat=args.repeat)
    print(json.dumps(speed.as_dict()) if args.json else "\n".join(as_table(speed)))
    return 0
