"""A live bar leaves standard output and standard error to the others."""

from __future__ import annotations

import io
import sys

import pytest

from detector.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_does_not_swallow_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    with Progress(3, "work", stream=stream) as progress:
        progress.advance()
        print("a result")
        sys.stderr.write("a log line\n")
        progress.note("a note")
    captured = capsys.readouterr()
    assert captured.out == "a result\n"
    assert captured.err == "a log line\n"
    assert "a note" in stream.getvalue()
    assert "a result" not in stream.getvalue()
