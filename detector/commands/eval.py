"""``detector eval CONFIG RESULTS.pkl``: evaluate or format results that ``detector test --out`` wrote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from detector.commands.test import METRICS_HELP, add_evaluator, print_metrics, with_evaluator

HELP = "evaluate a results file that `detector test --out` wrote"


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("eval", help=HELP, description=HELP)
    parser.add_argument("config", help="config file or name")
    parser.add_argument("results", help="results file (.pkl)")
    parser.add_argument(
        "--split",
        choices=("test", "val"),
        default="test",
        help="the config's data set that the results belong to",
    )
    parser.add_argument("--work-dir", help="folder for eval_<time>.json")
    parser.add_argument("--eval", nargs="+", metavar="METRIC", help=METRICS_HELP)
    add_evaluator(parser)
    parser.add_argument(
        "--format-only", action="store_true", help="write files for a test server, without evaluating"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override values of the config"
    )
    parser.add_argument(
        "--eval-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of the evaluation or of the formatting",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate or format."""
    from detector.config import load_config, parse_options
    from detector.engine.evaluate import (
        evaluate_results,
        format_results,
        read_results,
        split_dataset,
        write_metrics,
    )
    from detector.engine.scoring import check_request
    from detector.errors import ConfigError

    if bool(args.eval) == args.format_only:
        raise ConfigError("arguments: give either --eval with metrics or --format-only.")
    config = load_config(args.config, parse_options(args.cfg_options))
    options = with_evaluator(args, parse_options(args.eval_options, argument="--eval-options"))
    dataset = split_dataset(config, args.split)
    if args.eval:
        check_request(config, dataset, args.eval, options)
    results = read_results(args.results, dataset)
    if args.format_only:
        for path in format_results(config, dataset, results, options=options):
            print(f"written: {path}")
        return 0
    metrics = evaluate_results(config, dataset, results, metrics=args.eval, options=options)
    print_metrics(metrics)
    if args.work_dir:
        print(f"metrics: {write_metrics(Path(args.work_dir), args.config, metrics)}")
    return 0
