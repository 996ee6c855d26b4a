"""``detector test CONFIG CHECKPOINT``: the reference's ``tools/test.py``."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.commands.train import add_processes, processes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detector.config import Config
    from detector.engine.joined_split import TestData
    from detector.inference.dataset_drawings import DatasetDrawer

HELP = "run a checkpoint on a data set; evaluate, save, format or draw the results"
METRICS_HELP = (
    "metrics of the data set's type: bbox, segm, proposal, proposal_fast (COCO, LVIS), cityscapes, mAP or "
    "recall (VOC)"
)


def add_parser(subparsers: Any) -> None:
    """Add the command and its arguments."""
    parser = subparsers.add_parser("test", help=HELP, description=HELP)
    parser.add_argument("config", help="config file or name")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--split", choices=("test", "val"), default="test", help="which data set of the config to run on"
    )
    parser.add_argument("--work-dir", help="folder for eval_<time>.json")
    parser.add_argument("--out", help="write the results to this .pkl file")
    parser.add_argument("--eval", nargs="+", metavar="METRIC", help=METRICS_HELP)
    add_evaluator(parser)
    parser.add_argument(
        "--format-only", action="store_true", help="write files for a test server, without evaluating"
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="show each image with its results in a window, until a key is pressed; without a display, or "
        "with --show-dir, they are written to a folder (default 'show')",
    )
    parser.add_argument("--show-dir", help="folder for the drawn images, written as the test goes on")
    parser.add_argument(
        "--show-score-thr",
        type=float,
        default=0.3,
        help="results with a higher score are drawn (default 0.3)",
    )
    parser.add_argument(
        "--fuse-conv-bn", action="store_true", help="fold batch norms into convolutions before running"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:<number> (default: a GPU if there is one)")
    parser.add_argument("--gpu-id", type=int, help="number of the GPU to use")
    parser.add_argument("--gpu-ids", type=int, nargs="+", help="deprecated: the first one is used")
    parser.add_argument(
        "--gpu-collect", action="store_true", help="accepted for compatibility; results are gathered by files"
    )
    parser.add_argument("--tmpdir", help="folder shared by all processes, for gathering their results")
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
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="old name of --eval-options"
    )
    add_processes(parser)


def run(args: argparse.Namespace) -> int:
    """Test, then do each thing that was asked for."""
    check_arguments(args)
    args.launcher, job = processes(args)
    if job is not None:
        from detector.engine import launching

        return launching.launch(job, args.arguments, device=args.device)
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Test in this process, together with those of the launcher."""
    from detector.config import load_config, parse_options
    from detector.engine import distributed
    from detector.engine.evaluate import evaluate_results, format_results, split_dataset, test, write_metrics
    from detector.inference.acceleration import accelerate_for_test

    config = load_config(args.config, parse_options(args.cfg_options))
    given = "--eval-options" if args.eval_options else "--options"
    options = with_evaluator(args, parse_options(args.eval_options or args.options, argument=given))
    dataset = split_dataset(config, args.split)
    check_request(args, config, dataset, options)
    drawer = _drawer(args, dataset)
    distributed.export_local_rank(args.local_rank)
    group = config.data.get("dist_params") or {}
    with distributed.session(
        args.launcher, group.get("backend"), device=_device(args), port=group.get("port")
    ):
        results = test(
            config,
            args.checkpoint,
            dataset=dataset,
            split=args.split,
            out=args.out,
            device=_device(args),
            tmpdir=args.tmpdir,
            on_result=drawer,
            prepare=partial(accelerate_for_test, settings=config.data, fuse_conv_bn=args.fuse_conv_bn),
        )
        if distributed.rank() != 0:
            return 0
    if args.out:
        print(f"results: {args.out}")
    if drawer is not None and drawer.folder is not None:
        print(f"drawn: {len(drawer.written)} images in {drawer.folder}")
    if args.format_only:
        for path in format_results(config, dataset, results, options=options):
            print(f"written: {path}")
    if args.eval:
        metrics = evaluate_results(config, dataset, results, metrics=args.eval, options=options)
        print_metrics(metrics)
        if args.work_dir:
            print(f"metrics: {write_metrics(Path(args.work_dir), args.config, metrics)}")
    return 0


def add_evaluator(parser: argparse.ArgumentParser) -> None:
    """Add ``--evaluator``."""
    parser.add_argument(
        "--evaluator",
        choices=("hotcoco", "pycocotools"),
        help="who computes COCO's and LVIS' metrics, with the same numbers (default hotcoco)",
    )


def with_evaluator(args: argparse.Namespace, options: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation's options with ``--evaluator`` among them."""
    return {**options, **({"evaluator": args.evaluator} if args.evaluator else {})}


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse combinations that do nothing or contradict each other.

    Raises:
        ConfigError: saying which arguments, and what to give instead.
    """
    from detector.errors import ConfigError

    if not (args.out or args.eval or args.format_only or args.show or args.show_dir):
        raise ConfigError(
            "arguments: nothing to do with the results; give at least one of --out, --eval, --format-only, "
            "--show, --show-dir."
        )
    if args.eval and args.format_only:
        raise ConfigError(
            "arguments: --eval and --format-only exclude each other; a test split without ground truth "
            "takes --format-only."
        )
    if args.eval_options and args.options:
        raise ConfigError("arguments: --options is the old name of --eval-options; give only one of them.")
    if args.out and not str(args.out).endswith((".pkl", ".pickle")):
        raise ConfigError(f"--out: found {args.out!r}; expected a file name that ends in .pkl or .pickle.")


def check_request(
    args: argparse.Namespace, config: Config, dataset: TestData, options: Mapping[str, Any]
) -> None:
    """Raise before the images are run what evaluating, formatting or drawing would raise after them.

    Raises:
        ConfigError: an unknown metric or option, no place for the files, or masks asked of a model without
            them.
        DatasetError: there is no ground truth.
    """
    from detector.engine.checks import check_keys
    from detector.engine.scoring import formats_of
    from detector.engine.settings import COCO_OPTIONS, OTHER_OPTIONS, evaluation_options
    from detector.errors import ConfigError

    check_keys("--eval-options", options, (*COCO_OPTIONS, *OTHER_OPTIONS))
    chosen = {**evaluation_options(config.data.get("evaluation")), **options}
    if args.eval:
        _check_metrics(args.eval, config, dataset, chosen)
    if args.format_only and not (chosen.get("jsonfile_prefix") or chosen.get("txtfile_prefix")):
        raise ConfigError(
            "--format-only: found no place for the files; expected --eval-options jsonfile_prefix=PATH "
            "(COCO, LVIS) or txtfile_prefix=FOLDER (Cityscapes, VOC)."
        )
    formats = formats_of(dataset, chosen) if args.format_only else []
    if "cityscapes" in formats and not _has_masks(config.data["model"]):
        raise ConfigError(
            "--format-only: txtfile_prefix asks for Cityscapes masks, but the model has no mask head; "
            "expected a model with one. Give jsonfile_prefix instead."
        )


def _check_metrics(metrics: list[str], config: Config, dataset: TestData, options: Mapping[str, Any]) -> None:
    """Metrics that the data and the model can have, and ground truth to compare with."""
    from detector.engine.scoring import MASK_METRICS, check_request
    from detector.errors import ConfigError

    of_masks = [name for name in check_request(config, dataset, metrics, options) if name in MASK_METRICS]
    if of_masks and not _has_masks(config.data["model"]):
        raise ConfigError(
            f"--eval {of_masks[0]}: measures masks, but the model of {config.path} has no mask head; "
            "expected 'bbox' or 'proposal'. Leave the metric out, or take a config with a mask head."
        )


def _has_masks(node: Any) -> bool:
    """Whether a model's config has a mask head."""
    if isinstance(node, list | tuple):
        return any(_has_masks(item) for item in node)
    return isinstance(node, dict) and (
        bool(node.get("mask_head")) or any(_has_masks(value) for value in node.values())
    )


def print_metrics(metrics: Mapping[str, float | str]) -> None:
    """One metric per line, then a table of the classes."""
    from detector.evaluation.tables import metric_lines

    for line in metric_lines(metrics):
        print(line)


def _drawer(args: argparse.Namespace, dataset: TestData) -> DatasetDrawer | None:
    """What draws the results as the test goes on; None when nothing is to be drawn."""
    if not (args.show or args.show_dir):
        return None
    from detector.inference.dataset_drawings import drawer_of

    folder = None if args.show_dir is None else Path(args.show_dir)
    window = args.show and args.show_dir is None and args.launcher == "none"
    return drawer_of(dataset, folder, score_thr=args.show_score_thr, show=window)


def _device(args: argparse.Namespace) -> str | None:
    """Device of the arguments; None to choose."""
    if args.device is not None:
        return str(args.device)
    number = args.gpu_ids[0] if args.gpu_ids else args.gpu_id
    return None if number is None else f"cuda:{number}"
