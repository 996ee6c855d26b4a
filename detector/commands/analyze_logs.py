"""``detector analyze-logs``: the reference's ``tools/analysis_tools/analyze_logs.py``."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "draw curves of training logs, or tell their step times and results"
LOGS = "training log (<timestamp>.log.json), or a work_dir: all logs of a resumed run together"


def add_parser(subparsers: Any) -> None:
    """Add the command, its actions and their arguments."""
    parser = subparsers.add_parser("analyze-logs", help=HELP, description=HELP)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    plotting = actions.add_parser("plot_curve", help="draw quantities of the logs")
    plotting.add_argument("logs", nargs="+", metavar="JSON", help=LOGS)
    plotting.add_argument(
        "--keys", nargs="+", default=["bbox_mAP"], metavar="KEY", help="such as bbox_mAP, or loss_cls loss"
    )
    plotting.add_argument(
        "--start-epoch", type=int, default=1, metavar="N", help="first epoch of metrics (default 1)"
    )
    plotting.add_argument(
        "--eval-interval", type=int, default=1, metavar="N", help="metrics of every Nth epoch (default 1)"
    )
    plotting.add_argument("--title", help="title of the picture")
    plotting.add_argument("--legend", nargs="+", metavar="LABEL", help="one label per log and key")
    plotting.add_argument("--backend", help="of matplotlib, for the window")
    plotting.add_argument("--style", help="dark, darkgrid, white, whitegrid, ticks or a style of matplotlib")
    plotting.add_argument(
        "--out", metavar="FILE", help="picture or PDF (default: a window; curve.png without a display)"
    )
    timing = actions.add_parser("cal_train_time", help="slowest and fastest epoch, average time of a step")
    timing.add_argument("logs", nargs="+", metavar="JSON", help=LOGS)
    timing.add_argument(
        "--include-outliers", action="store_true", help="count the first line of each epoch, too"
    )
    telling = actions.add_parser("summary", help="last losses, best metrics, time of a step, wait for data")
    telling.add_argument("logs", nargs="+", metavar="JSON", help=LOGS)


def run(args: argparse.Namespace) -> int:
    """Draw or tell."""
    from detector.engine.log_analysis import read_run, summary_text, times_text, train_times

    if args.action == "plot_curve":
        return _plot(args)
    for log in map(read_run, args.logs):
        if args.action == "summary":
            print("\n".join(summary_text(log)))
        else:
            print(
                "\n".join(times_text(log, train_times(log, include_outliers=args.include_outliers))),
                end="\n\n",
            )
    return 0


def _plot(args: argparse.Namespace) -> int:
    """Draw and say where the file is."""
    from detector.engine.key_curves import Wanted, plot

    wanted = Wanted(
        logs=args.logs,
        keys=args.keys,
        legend=args.legend,
        title=args.title,
        start_epoch=args.start_epoch,
        eval_interval=args.eval_interval,
        style=args.style,
    )
    path = plot(wanted, out=args.out, backend=args.backend)
    if path is not None:
        print(f"curve: {path}")
    return 0
