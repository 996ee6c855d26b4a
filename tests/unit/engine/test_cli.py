"""The command line: speed of --help, lazy imports, exit codes, argument rules."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from detector import cli
from detector.errors import ConfigError

SCRIPT = """
import sys
from detector.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = sorted({"torch", "numpy", "cv2", "rich", "yaml"} & set(sys.modules))
print(heavy, [m for m in sys.modules if m.startswith("detector.commands")])
"""


def test_help_imports_no_command_and_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    *listing, imported = done.stdout.splitlines()
    assert imported == "[] []"
    missing = [name for name, _, _ in cli.COMMANDS if name not in "\n".join(listing)]
    assert missing == []


def fake_command(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Put a command in the place of `eval`."""
    module = ModuleType("detector.commands.eval")
    module.add_parser = lambda subparsers: subparsers.add_parser("eval").add_argument("config")  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detector.commands.eval", module)


def raises(error: BaseException) -> Any:
    def run(args: Any) -> int:
        raise error

    return run


def test_an_error_is_one_paragraph_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_command(monkeypatch, raises(ConfigError("a.py:3: found 'x'; expected 'y'")))
    assert cli.main(["eval", "a.py"]) == 1
    assert capsys.readouterr().err == "detector eval: a.py:3: found 'x'; expected 'y'\n"


@pytest.mark.parametrize("arguments", [["--verbose", "eval", "a.py"], ["eval", "a.py", "--verbose"]])
def test_verbose_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    fake_command(monkeypatch, raises(ConfigError("wrong")))
    assert cli.main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_command(monkeypatch, raises(KeyboardInterrupt()))
    assert cli.main(["eval", "a.py"]) == 130


def test_a_commands_own_code_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_command(monkeypatch, lambda args: 143)
    assert cli.main(["eval", "a.py"]) == 143


def test_no_command_is_code_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--out, --eval"),
        (["--eval", "bbox", "--format-only"], "exclude"),
        (["--out", "results.json"], ".pkl"),
        (["--eval", "bbox", "--options", "a=1", "--eval-options", "b=1"], "only one"),
    ],
)
def test_arguments_that_contradict_each_other(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert cli.main(["test", "config.py", "model.pth", *arguments]) == 1
    assert named in capsys.readouterr().err


def test_train_options_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "config.py", "--options", "a=1", "--cfg-options", "b=1"])
    assert "not allowed with" in capsys.readouterr().err


def test_a_machine_without_libgl_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = "libGL.so.1: cannot open shared object file: No such file or directory"
    fake_command(monkeypatch, raises(ImportError(missing)))
    assert cli.main(["eval", "a.py"]) == 1
    printed = capsys.readouterr().err
    assert missing in printed
    assert "opencv-python-headless" in printed


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_command(monkeypatch, raises(BrokenPipeError()))
    assert cli.main(["eval", "a.py"]) == 141
