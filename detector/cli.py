"""The ``detector`` command: imports only the chosen sub-command and turns errors into exit codes.

Exit codes: 0 done, 1 an error in what the user gave, 2 wrong arguments, 75 stopped with a checkpoint to be
started again (SIGUSR1, or Slurm takes the machine back), 130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from detector.errors import DetectorError

# name, module, help line: so that `detector --help` imports none of them
COMMANDS = (
    ("train", "detector.commands.train", "train a detector by a config"),
    ("slurm-train", "detector.commands.slurm_train", "train a detector as a job of Slurm"),
    ("slurm-test", "detector.commands.slurm_test", "test a detector as a job of Slurm"),
    (
        "test",
        "detector.commands.test",
        "run a checkpoint on a data set; evaluate, save, format or draw the results",
    ),
    ("image-demo", "detector.commands.image_demo", "draw the detections of an image, a folder or a pattern"),
    ("video-demo", "detector.commands.video_demo", "draw the detections of every frame of a video"),
    ("webcam-demo", "detector.commands.webcam_demo", "show the detections of a camera's frames"),
    ("eval", "detector.commands.eval", "evaluate a results file that `detector test --out` wrote"),
    (
        "check-submission",
        "detector.commands.check_submission",
        "check files for a test server before they are uploaded, and zip them",
    ),
    ("print-config", "detector.commands.print_config", "show a config's effective values"),
    ("convert", "detector.commands.convert", "convert annotations to COCO format"),
    ("link", "detector.commands.link", "link a data set's folders below data/"),
    ("download", "detector.commands.download", "fetch or generate a data set"),
    ("zoo", "detector.commands.zoo", "list the published models, or download the weights of one"),
    ("doctor", "detector.commands.doctor", "check that data, model, checkpoint and machine fit together"),
    (
        "benchmark",
        "detector.commands.benchmark",
        "measure a model's speed, latency, memory and stages",
    ),
    ("export", "detector.commands.export", "write a model as ONNX or TorchScript, and check the file"),
    ("scan", "detector.commands.scan", "check every image and annotation of a data set, and write a report"),
    (
        "analyze-logs",
        "detector.commands.analyze_logs",
        "draw curves of training logs, or tell their step times and results",
    ),
    (
        "checkpoint",
        "detector.commands.checkpoint",
        "show what a checkpoint holds, or write its weights as safetensors",
    ),
    ("lineage", "detector.commands.lineage", "show what a file was made from"),
    ("reproduce", "detector.commands.reproduce", "tell or run the commands that make a file again"),
)
NO_LIBGL = (
    "OpenCV cannot be imported: {error}. The machine lacks the libraries that OpenCV's windows need; install "
    "them (`apt-get install -y libgl1 libglib2.0-0`) or put the build without windows over it "
    "(`uv pip install --reinstall opencv-python-headless`)."
)
EPILOG = "`detector COMMAND --help` lists a command's arguments. --verbose shows the traceback of an error."


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of the chosen command only (its module is the only one imported)."""
    parser = argparse.ArgumentParser(
        prog="detector", description="Train, test and ship object detectors.", epilog=EPILOG
    )
    parser.add_argument("--verbose", action="store_true", help="show tracebacks and debug messages")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module, help_line in COMMANDS:
        if name == chosen:
            importlib.import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=help_line)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    # Idle threads of torch spin for a moment only: longer is several times slower on a busy machine with few
    # cores, not at all is a few percent slower on an idle one.
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in arguments
    arguments = [argument for argument in arguments if argument != "--verbose"]
    modules = {name: module for name, module, _ in COMMANDS}
    chosen = next((argument for argument in arguments if argument in modules), None)
    if arguments and arguments[0] != chosen:
        chosen = None
    args = build_parser(chosen).parse_args(arguments)
    args.verbose = verbose
    args.arguments = ["--verbose"] * verbose + arguments  # for commands that start themselves again
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    from detector.lineage.stamp import collecting

    try:
        with collecting(command=["detector", *arguments]):
            return int(importlib.import_module(modules[args.command]).run(args) or 0)
    except BrokenPipeError:
        return 141
    except (DetectorError, OSError) as error:
        return _failed(args.command, str(error), error, verbose=verbose)
    except ImportError as error:
        if "libGL" not in str(error):
            raise
        return _failed(args.command, NO_LIBGL.format(error=error), error, verbose=verbose)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def leave(code: int | str | None) -> NoReturn:
    """End the process with this code; at once when a signal asked for the end.

    Everything is saved and closed by then, but torch and others take seconds to take themselves down, and who
    sent the signal may wait for only so long before the next one.
    """
    from detector.engine.interrupts import REQUEUE

    if code == REQUEUE or (isinstance(code, int) and code > 128):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _failed(command: str, message: str, error: Exception, *, verbose: bool) -> int:
    """Say what went wrong in one paragraph."""
    if verbose:
        traceback.print_exception(error)
    sys.stderr.write(f"detector {command}: {message}\n")
    return 1
