"""``detector checkpoint show FILE`` and ``detector checkpoint convert FILE OUT``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.checkpoint.files import Checkpoint

HELP = "show what a checkpoint holds, or write its weights as safetensors"
SHOWN_CLASSES = 10


def add_parser(subparsers: Any) -> None:
    """Add the command, its actions and their arguments."""
    parser = subparsers.add_parser("checkpoint", help=HELP, description=HELP)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    showing = actions.add_parser("show", help="what a file says about itself")
    showing.add_argument("file", help="checkpoint (.pth, .safetensors), or a weights URI such as an address")
    showing.add_argument("--keys", action="store_true", help="also every key with shape and type")
    showing.add_argument("--json", action="store_true", help="as json")
    converting = actions.add_parser(
        "convert", help="write the weights and the plain part of the meta, without the optimizer"
    )
    converting.add_argument("file", help="checkpoint (.pth, .safetensors), or a weights URI")
    converting.add_argument("out", type=Path, help="file to write; ends in .safetensors or .pth")


def run(args: argparse.Namespace) -> int:
    """Show or convert."""
    from detector.checkpoint.files import load_checkpoint
    from detector.checkpoint.weights import resolve_weights

    checkpoint = load_checkpoint(resolve_weights(args.file))
    if args.action == "convert":
        return _convert(checkpoint, args.out)
    return _show(checkpoint, keys=args.keys, as_json=args.json)


def _show(checkpoint: Checkpoint, *, keys: bool, as_json: bool) -> int:
    from detector.checkpoint.describe import describe

    facts = describe(checkpoint)
    listed = {
        key: [list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in checkpoint.state_dict.items()
    }
    if as_json:
        text = json.dumps({**facts, "keys": listed} if keys else facts, indent=1)
        sys.stdout.write(text + "\n")
        return 0
    width = max(map(len, _lines(facts)))
    for name, value in _lines(facts).items():
        print(f"{name:<{width}}  {value}")
    if keys:
        for key, (shape, kind) in listed.items():
            print(f"{key}  {shape}  {kind}")
    return 0


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    """The facts in words; what the file does not say is left out."""
    names, kinds = facts["classes"], ", ".join(facts["dtypes"])
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    lines = {
        "file": facts["path"],
        "size": f"{facts['size'] / 1e6:.1f} MB, {facts['serialisation']}",
        "sha256": facts["sha256"],
        "weights": f"{facts['tensors']} tensors, {facts['parameters']:,} parameters, {kinds}",
        "backbone": f"looks like {facts['backbone']}" if facts["backbone"] else "",
        **{
            key: str(facts[key])
            for key in ("config", "epoch", "iter", "mmdet_version", "mmcv_version", "time")
        },
        "classes": f"{len(names)}: {', '.join(names[:SHOWN_CLASSES])}{more}" if names else "",
        "optimizer": "inside" if facts["optimizer"] else "not inside",
        "average": f"{facts['ema']} tensors of a moving average" if facts["ema"] else "",
        "meta": ", ".join(facts["meta"]),
        "not loaded": ", ".join(facts["foreign"]),
    }
    return {name: value for name, value in lines.items() if value not in ("", "None")}


def _convert(checkpoint: Checkpoint, out: Path) -> int:
    """Write the other form; says on standard error what it left out."""
    from detector.checkpoint.exchange import plain_meta, write_safetensors
    from detector.checkpoint.files import save_checkpoint
    from detector.errors import CheckpointError

    if out.suffix not in (".safetensors", ".pth"):
        raise CheckpointError(f"{out}: found the ending {out.suffix!r}, expected .safetensors or .pth.")
    if checkpoint.path is not None and out.exists() and out.samefile(checkpoint.path):
        raise CheckpointError(f"{out}: is the file that is read; name another one.")
    if out.suffix == ".pth":
        meta, dropped = plain_meta(checkpoint.meta)
        save_checkpoint(out, {"meta": meta, "state_dict": checkpoint.state_dict})
    else:
        dropped = write_safetensors(out, checkpoint.state_dict, checkpoint.meta)
    left = [*(["the optimizer"] if checkpoint.optimizer is not None else []), *(f"meta.{n}" for n in dropped)]
    if left:
        sys.stderr.write(f"left out: {', '.join(left)}\n")
    print(out)
    return 0
