"""From a file's stamp back to the commands that make it again, and running them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.checkpoint.digest import weights_sha256
from detector.checkpoint.files import Checkpoint, load_checkpoint
from detector.config import config_from_text
from detector.config.text import format_config
from detector.lineage.carriers import split_pickle
from detector.lineage.reading import CHECKPOINTS, read_stamp
from detector.lineage.stamp import MASK, LineageError, Stamp
from detector.lineage.surroundings import code_state, repository, versions
from detector.whole_files import replacing, sha256_file

RESULTS = (".pkl", ".pickle")
CODE, WORK, RESULT = "code", "work", "results.pkl"  # below the folder
TRAIN_FLAGS = {
    "diff_seed": "--diff-seed",
    "deterministic": "--deterministic",
    "auto_scale_lr": "--auto-scale-lr",
}


@dataclass(frozen=True)
class Recipe:
    """How to make a file again.

    Attributes:
        file: the file.
        stamp: its stamp.
        commands: the command lines, in order.
        environment: variables of the last one.
        notes: what to know before, one line each.
    """

    file: Path
    stamp: Stamp
    commands: list[list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The notes as comments, then the commands, ready for a shell."""
        yield from (f"# {line}" for line in self.notes)
        yield from self.lines_of_commands()

    def lines_of_commands(self) -> list[str]:
        """The commands for a shell, one a line."""
        settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in self.environment.items())
        *first, last = map(shlex.join, self.commands)
        return [*first, f"{settings} {last}".lstrip()]


def recipe(file: str | Path, folder: Path, *, here: bool = False, checkpoint: str | None = None) -> Recipe:
    """The commands that make a file again; the effective config is written to ``folder``.

    Args:
        file: anything with a stamp.
        folder: for the code of the stamp's commit, the config and what is made.
        here: use this code and environment, not a clone with its own.
        checkpoint: of results, where the stamp's is not where it was.

    Raises:
        LineageError: no stamp, or one that does not say enough.
    """
    file = Path(file)
    stamp = read_stamp(file)
    prefix, first = ([sys.executable, "-m"], []) if here else _its_code(stamp, folder)
    if file.suffix in CHECKPOINTS:
        arguments = _train(file, stamp, folder)
    elif file.suffix in RESULTS and stamp.get("checkpoint"):
        arguments = _test(file, stamp, folder, checkpoint)
    elif stamp.get("command"):
        arguments = _as_module(stamp["command"])
    else:
        raise LineageError(
            f"{file}: its stamp names no command; expected a checkpoint, results.pkl, or a file that a "
            "`detector` command wrote. Reproduce what it was made from: see `detector lineage`."
        )
    threads = (stamp.get("options") or {}).get("threads")
    on_cpu = (stamp.get("options") or {}).get("device") == "cpu"
    environment = {"OMP_NUM_THREADS": str(threads)} if threads and on_cpu else {}
    if not here:
        environment["PYTHONSAFEPATH"] = "1"  # else the code in the working folder would come first
    notes = list(_notes(file, stamp, here=here))
    return Recipe(file, stamp, [*first, [*prefix, *arguments]], environment, notes)


def _as_module(command: Sequence[str]) -> list[str]:
    """What follows ``python -m`` in a recorded command: of the detector, or of the pipeline."""
    words = list(command)
    return words[words.index("-m") + 1 :] if words[0] != "detector" else words


def _its_code(stamp: Stamp, folder: Path) -> tuple[list[str], list[list[str]]]:
    """(how to call the stamp's code, the commands that get it); data stays where it is."""
    code = stamp.get("code") or {}
    if code.get("of") != "package":
        version = (stamp.get("versions") or {}).get("detector")
        raise LineageError(
            f"found no commit of this project in the stamp, only the version {version}; expected one. "
            "Install that version, and give --here to use it."
        )
    place = folder / CODE
    source = repository() or Path("REPOSITORY")
    get = [
        ["git", "clone", "--quiet", str(source), str(place)],
        ["git", "-C", str(place), "checkout", "--quiet", str(code["commit"])],
        ["uv", "sync", "--quiet", "--project", str(place)],
    ]
    return ["uv", "run", "--project", str(place), "--no-sync", "python", "-m"], get


def _train(file: Path, stamp: Stamp, folder: Path) -> list[str]:
    """Arguments that train the checkpoint again."""
    options, seeds = stamp.get("options") or {}, stamp.get("seeds") or {}
    config = _write_config(file, stamp, folder)
    arguments = ["detector", "train", str(config), "--work-dir", str(folder / WORK)]
    arguments += ["--seed", str(seeds["seed"])]
    processes = int(options.get("processes", 1))
    device = str(options.get("device", "cpu"))
    if processes > 1:
        arguments += ["--gpus", str(processes), *(["--device", "cpu"] if device == "cpu" else [])]
    else:
        arguments += ["--device", device]
    said = {**options, **seeds}
    arguments += [flag for key, flag in TRAIN_FLAGS.items() if said.get(key)]
    return [*arguments, *(["--no-validate"] if options.get("validate") is False else [])]


def _test(file: Path, stamp: Stamp, folder: Path, checkpoint: str | None) -> list[str]:
    """Arguments that write the results again."""
    options, weights = stamp.get("options") or {}, stamp["checkpoint"]
    config = _write_config(file, stamp, folder)
    _set_threshold(config, options.get("score_threshold"))
    arguments = ["detector", "test", str(config), checkpoint or str(weights["path"])]
    arguments += ["--out", str(folder / RESULT), "--split", str(options.get("split", "test"))]
    return [*arguments, "--device", str(options.get("device", "cpu"))]


def _set_threshold(path: Path, threshold: float | None) -> None:
    """Put the threshold that the pipeline gave beside the config into it; ``detector test`` has none."""
    from detector.engine.evaluate import with_score_threshold

    if threshold is None:
        return
    data = config_from_text(path.read_text(encoding="utf-8"), name=str(path)).data
    for key in ("model", "test_cfg"):
        if key in data:
            data[key] = with_score_threshold({key: data[key]}, threshold)[key]
    with replacing(path) as stream:
        stream.write(format_config(data).encode())


def _write_config(file: Path, stamp: Stamp, folder: Path) -> Path:
    """Write the effective config, checked against its digest."""
    config = stamp.get("config") or {}
    if not config.get("text"):
        raise LineageError(f"{file}: its stamp has no config; expected the effective one. Train it anew.")
    path = folder / f"{config['name']}.py"
    if not config.get("masked"):
        found, said = config_from_text(config["text"], name=str(path)).sha256(), config["sha256"]
        if found != said:
            raise LineageError(
                f"{file}: the config in it has the digest {found[:12]}, its stamp says {said[:12]}; "
                "expected the same. The file was changed, or the environment replaces the data root "
                "(MMDET_DATASETS): unset it."
            )
    with replacing(path) as stream:
        stream.write(config["text"].encode())
    return path


def _notes(file: Path, stamp: Stamp, *, here: bool) -> Iterator[str]:
    """What may make the result another one, or stop the commands."""
    code, config = stamp.get("code") or {}, stamp.get("config") or {}
    if code.get("dirty"):
        yield f"the code had changes beyond commit {code['commit'][:12]}, which no stamp holds"
    now = (code_state() or {}).get("commit")
    if here and now != code.get("commit"):
        yield f"this code is at commit {now}, the file's was at {code.get('commit')}"
    if config.get("masked"):
        yield f"hidden in the config, to be put in by you for {MASK}: {', '.join(config['masked'])}"
    for entry in stamp.get("resumed_from") or []:
        other = ", ".join(sorted(set(entry) - {"iteration"}))
        yield f"up to iteration {entry.get('iteration')} it was trained with other {other}"
    for name, digest in ((stamp.get("data") or {}).get("annotations") or {}).items():
        if not Path(name).is_file():
            yield f"missing here: {name} (sha256 {digest[:12]}); for a data set of ours: `detector download`"
        elif sha256_file(Path(name)) != digest:
            yield f"other here than it was: {name} (sha256 was {digest[:12]})"
    if here:
        theirs, ours = stamp.get("versions") or {}, versions()
        yield from (
            f"{name} was {theirs[name]}, here is {ours[name]}"
            for name in ours
            if name in theirs and ours[name] != theirs[name]
        )


def run(made: Recipe, folder: Path, say: Callable[[str], None]) -> bool:
    """Run the commands and compare what they made.

    Returns:
        whether the weights (of results: their bytes) are equal.

    Raises:
        LineageError: a command fails, the file is of a kind that cannot be compared, or the run left nothing
            to compare with.
    """
    _check_comparable(made, folder)
    for command, line in zip(made.commands, made.lines_of_commands(), strict=True):
        say(f"$ {line}")
        last = command is made.commands[-1]
        done = subprocess.run(command, check=False, env={**os.environ, **(made.environment if last else {})})
        if done.returncode:
            raise LineageError(
                f"`{line}` ended with exit code {done.returncode}; expected 0. What it said is above."
            )
    if made.file.suffix in RESULTS:
        return _same_results(made.file, folder / RESULT, say)
    return _same_weights(made.file, folder / WORK, say)


def _check_comparable(made: Recipe, folder: Path) -> None:
    """Refuse what cannot be compared, or would be mixed with what an earlier run left."""
    if made.file.suffix not in (*CHECKPOINTS, *RESULTS):
        raise LineageError(
            f"{made.file}: --run makes checkpoints and results.pkl again; expected one of these. Run the "
            "commands that are printed without --run."
        )
    lacking = [
        name for name in (made.stamp.get("data") or {}).get("annotations") or {} if not Path(name).is_file()
    ]
    if lacking:
        raise LineageError(
            f"{made.file}: found no {', '.join(lacking)}; expected the data that it was made from, as seen "
            "from this folder. Run it in the project's folder, with the data set prepared."
        )
    for place in (folder / CODE, folder / WORK):
        if place.exists() and any(place.iterdir()):
            raise LineageError(f"{place}: found files; expected an empty folder. Name another --folder.")


def _same_results(file: Path, made: Path, say: Callable[[str], None]) -> bool:
    was, now = split_pickle(file.read_bytes())[0], split_pickle(made.read_bytes())[0]
    say(
        f"results: {len(was)} bytes in {file}, {len(now)} in {made}: {'equal' if was == now else 'DIFFERENT'}"
    )
    return was == now


def _same_weights(file: Path, work: Path, say: Callable[[str], None]) -> bool:
    """Compare with the checkpoint of the same iteration."""
    original = load_checkpoint(file)
    iteration = original.meta.get("iter")
    found = _of_iteration(work, iteration, prefer=file.name)
    if found is None:
        raise LineageError(
            f"{work}: found no checkpoint after iteration {iteration}, that of {file}; expected one. "
            "The run stopped there, or kept fewer (checkpoint_config.max_keep_ckpts): take a later file."
        )
    was, now = weights_sha256(original.state_dict), weights_sha256(found.state_dict)
    say(f"weights of {file}: {was}")
    say(f"weights of {found.path}: {now}")
    say("equal" if was == now else "DIFFERENT")
    return was == now


def _of_iteration(work: Path, iteration: Any, *, prefer: str) -> Checkpoint | None:
    for path in sorted(work.glob("*.pth"), key=lambda p: (p.name != prefer, p.name)):
        if not path.is_symlink():
            found = load_checkpoint(path)
            if found.meta.get("iter") == iteration:
                return found
    return None
