from __future__ import annotations

import subprocess
import sys

import pytest

CODE = (
    "import atexit; from detector.cli import leave; atexit.register(print, 'taken down');"
    "print('said', end=''); leave({code!r})"
)


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        (0, 0, "saidtaken down\n"),
        (1, 1, "saidtaken down\n"),
        ("why", 1, "saidtaken down\n"),
        (143, 143, "said"),
        (130, 130, "said"),
        (75, 75, "said"),
    ],
)
def test_after_a_signal_the_process_ends_at_once_and_loses_no_word(
    code: int | str, expected: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(code=code)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (expected, said)
