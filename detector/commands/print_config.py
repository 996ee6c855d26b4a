"""``detector print-config``: show a config's effective values and where each came from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from detector.config import Config, load_config, parse_options
from detector.errors import ConfigError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser(
        "print-config",
        help="print a config's effective values",
        description="Print the config that a file, its bases and the overrides give; it can be read again.",
    )
    parser.add_argument("config", help="config file, name (mask_rcnn_r50_fpn_1x_coco) or family (mask_rcnn)")
    parser.add_argument(
        "--cfg-options", nargs="+", metavar="KEY=VALUE", help="overrides, such as optimizer.lr=0.01"
    )
    parser.add_argument("--options", nargs="+", metavar="KEY=VALUE", help="old name of --cfg-options")
    parser.add_argument(
        "--origin", action="store_true", help="print each value with the file and line it came from"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the config to standard output."""
    if args.options and args.cfg_options:
        raise ConfigError(
            "--options and --cfg-options are both given; --options is the old name. Use --cfg-options only."
        )
    config = load_config(args.config, parse_options(args.cfg_options or args.options or []))
    sys.stdout.write(origin_table(config) if args.origin else config.text())
    return 0


def origin_table(config: Config) -> str:
    """Return one line per leaf: file:line, dotted key, value."""
    rows = [(str(origin), key, repr(value_at(config.data, key))) for key, origin in config.origins.items()]
    width = max((len(place) for place, _, _ in rows), default=0)
    return "".join(f"{place:<{width}}  {key} = {value}\n" for place, key, value in rows)


def value_at(data: object, dotted: str) -> object:
    """Return the value of a dotted key; keys may hold dots themselves, as in ``custom_keys``."""
    if not dotted:
        return data
    items: Iterable[tuple[object, object]] = ()
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, (list, tuple)):
        items = enumerate(data)
    for key, item in items:
        name = str(key)
        if dotted == name:
            return item
        if dotted.startswith(name + "."):
            try:
                return value_at(item, dotted[len(name) + 1 :])
            except KeyError:
                continue
    raise KeyError(dotted)
