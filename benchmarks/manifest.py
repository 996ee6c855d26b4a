"""How long it takes to version a large data set behind a link, and whether a changed file is found.

    uv run python benchmarks/manifest.py          100,000 files of 2 KB: first and second recording, verify
    uv run python benchmarks/manifest.py --dvc    and DVC: the links, and the manifest, as dependencies

Every figure is the wall-clock time of a whole command, Python's start included.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PER_FOLDER = 1000
STAGE = """
stages:
  look:
    cmd: echo looked > {name}.txt
    deps:
    - {deps}
    outs:
    - {name}.txt
"""


def main() -> int:
    """Run the measurement; 1 when the changed file was not named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=100_000, help="(default: 100000)")
    parser.add_argument("--bytes", type=int, default=2048, help="of each file (default: 2048)")
    parser.add_argument(
        "--repeat", type=int, default=3, help="of what is quick; the median is told (default: 3)"
    )
    parser.add_argument("--folder", help="where to work (default: the system's temporary folder)")
    parser.add_argument("--dvc", action="store_true", help="time DVC with the same files, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        return measure(args, Path(scratch))


def measure(args: argparse.Namespace, scratch: Path) -> int:
    """Make the files and link their parts; record, record again, change one, verify."""
    store, project = scratch / "store", scratch / "project"
    (project / "data/big").mkdir(parents=True)
    begun = time.perf_counter()
    for number in range(args.files):
        write(store, number, args.bytes)
    for part in ("train", "val"):
        (project / "data/big" / part).symlink_to(store / part)
    print(f"{args.files} files made in {time.perf_counter() - begun:.0f} s")
    time.sleep(2.5)  # younger files are read twice, as their next change might not show
    record = ["-m", "tasks", "data", "record", "--name", "big"]
    verify = ["-m", "tasks", "data", "verify"]
    first, _ = timed(project, record)
    second, _ = median(project, record, args.repeat)
    clean, code = median(project, verify, args.repeat)
    assert code[0] == 0, code[1]
    changed = write(store, args.files // 2, args.bytes, salt="other")
    drifted, code = median(project, verify, args.repeat)
    named = code[0] == 1 and changed.name in code[1]
    size = (project / "data/big.manifest").stat().st_size
    print(f"record, first time        {first:7.2f} s  ({size / 1e6:.1f} MB of manifest)")
    print(f"record, again             {second:7.2f} s")
    print(f"verify, nothing changed   {clean:7.2f} s")
    print(f"verify, one file changed  {drifted:7.2f} s  exit code {code[0]}; it says:")
    print("    " + code[1].strip().replace("\n", "\n    "))
    if args.dvc:
        compare(project, args.repeat)
    return 0 if named else 1


def write(store: Path, number: int, size: int, salt: str = "") -> Path:
    """Write file ``number``; a tenth of them are in ``val``."""
    path = (
        store / ("val" if number % 10 == 0 else "train") / f"{number // PER_FOLDER:04}" / f"{number:07}.bin"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    block = hashlib.sha256(f"{salt}{number}".encode()).digest()
    path.write_bytes((block * (size // len(block) + 1))[:size])
    return path


def compare(project: Path, repeat: int) -> None:
    """Time DVC with the links to the files, and with the manifest, as the dependencies of a stage."""
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=project, check=True)
    parts = "data/big/train\n    - data/big/val"  # of a folder with links DVC sees no file, and says nothing
    for name, deps in (("links", parts), ("manifest", "data/big.manifest")):
        (project / "dvc.yaml").write_text(STAGE.format(name=name, deps=deps))
        repro = ["-m", "dvc", "repro", "-q"]
        first, _ = timed(project, repro)
        again, _ = median(project, repro, repeat)
        print(f"dvc repro of a stage on the {name}: first {first:.2f} s, again {again:.2f} s")


def median(project: Path, words: list[str], repeat: int) -> tuple[float, tuple[int, str]]:
    """The median time of a command, and its exit code and output."""
    runs = [timed(project, words) for _ in range(repeat)]
    return sorted(seconds for seconds, _ in runs)[repeat // 2], runs[-1][1]


def timed(project: Path, words: list[str]) -> tuple[float, tuple[int, str]]:
    """Seconds of a Python command, and its exit code and output."""
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], cwd=project, env=env, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise RuntimeError(f"{words}: {done.stderr}")
    return seconds, (done.returncode, done.stdout)


if __name__ == "__main__":
    sys.exit(main())
