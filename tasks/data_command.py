"""`python -m tasks data`: record what a data set's folder holds, and tell what has become of it.

    python -m tasks data record --name mine     write data/mine.manifest from what data/mine holds now
    python -m tasks data verify                 compare every recorded folder with its manifest

The folder may be, or hold, links; its content is read once and then only looked at. Give the manifest to DVC
(`dvc add data/mine.manifest`, or as a dependency of a stage), never the folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from detector.errors import DatasetError
from tasks import manifests
from tasks.request import DATA_ROOT, DataRequest

Say = Callable[[str], None]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tasks data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("what", choices=("verify", "record"))
    made.add_argument(
        "--name", action="append", help="data set: the folder data/NAME (default for verify: all recorded)"
    )
    made.add_argument("--show", type=int, default=10, help="files of each kind that are named (default: 10)")
    made.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    return made


def main(argv: Sequence[str], say: Say = print) -> int:
    """Run the command; 0 when all data is as recorded, otherwise 1.

    Raises:
        DatasetError: there is no such folder or manifest, or files cannot be read.
    """
    arguments = parser().parse_args(argv)
    if arguments.what == "verify":
        return verify([DataRequest(name) for name in arguments.name or recorded_names()], arguments.show, say)
    if not arguments.name:
        raise DatasetError("data record: found no --name; expected that of a folder below data/. Add one.")
    for name in arguments.name:
        record(DataRequest(name), arguments.show, say)
    return 0


def recorded_names() -> list[str]:
    """The data sets with a manifest.

    Raises:
        DatasetError: there is none.
    """
    found = sorted(path.stem for path in DATA_ROOT.glob("*.manifest"))
    if not found:
        raise DatasetError(
            f"{DATA_ROOT}: found no manifest; expected {DATA_ROOT}/<name>.manifest. `python -m tasks "
            "prepare` makes it for a known data set, `python -m tasks data record --name NAME` for your own."
        )
    return found


def record(request: DataRequest, shown: int, say: Say) -> None:
    """Write the manifest of what is there now, naming what is new compared with the one before."""
    files = manifests.take(request.root, leave=request.made)
    if request.manifest.is_file():
        _tell(manifests.compare(manifests.load(request.manifest), files), shown, say)
    manifests.save(request.manifest, files)
    say(f"{request.manifest}: {manifests.total(files)} of {described(request.root)}")


def verify(requests: Sequence[DataRequest], shown: int, say: Say) -> int:
    """Compare folders with their manifests; 1 when any differs or holds what cannot be read."""
    worst = 0
    for request in requests:
        if not request.manifest.is_file():
            raise DatasetError(
                f"{request.manifest}: found no such file; expected the record of {request.root}. Make it: "
                f"`python -m tasks data record --name {request.dataset}`."
            )
        recorded = manifests.load(request.manifest)
        now = manifests.read(request.root, leave=request.made)
        drift = manifests.compare(recorded, now.files)
        if not drift and not now.problems:
            say(f"{request.root}: as recorded, {manifests.total(recorded)} in {described(request.root)}")
            continue
        worst = 1
        say(f"{request.root}: {drift.counts} since {request.manifest} ({described(request.root)})")
        _tell(drift, shown, say)
        for name, why in sorted(now.problems.items())[:shown]:
            say(f"  {name} {why}")
    return worst


def described(root: Path) -> str:
    """The real places of a folder and of the links right below it."""
    links = {root, *(path for path in (root.iterdir() if root.is_dir() else ()) if path.is_symlink())}
    places = [f"{path} -> {path.resolve()}" for path in sorted(links) if path.is_symlink()]
    return ", ".join(places) or str(root.resolve())


def _tell(drift: manifests.Drift, shown: int, say: Say) -> None:
    for line in drift.named(shown):
        say(f"  {line}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
