"""The result of a pre-flight check, as a table, and as notes and an error.

Imports neither data nor models.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from detector.errors import ConfigError, DetectorError

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: what was checked.
        status: OK, WARNING or PROBLEM.
        found: what was found, and what was expected where it is not fine.
        remedy: what to do; '' where it is fine.
        kind: the error that a problem is raised as.
    """

    name: str
    status: str
    found: str
    remedy: str = ""
    kind: type[DetectorError] = ConfigError


def of_error(name: str, error: DetectorError) -> Check:
    """A problem from an error, whose last sentence says what to do."""
    text = str(error)
    cut = max(text.rfind(". "), text.rfind("; give "), text.rfind("; use "))
    if cut < 0:
        return Check(name, PROBLEM, text, kind=type(error))
    return Check(name, PROBLEM, text[:cut].rstrip("."), text[cut + 2 :].strip(), kind=type(error))


def attempt(name: str, action: Callable[[], str]) -> Check:
    """OK with what ``action`` says, or the problem that it raises."""
    try:
        return Check(name, OK, action())
    except DetectorError as error:
        return of_error(name, error)


def settle(checks: Iterable[Check], where: str, *, note: Callable[[str], None]) -> None:
    """Note every warning once, then raise the problems, if there are any.

    Raises:
        DetectorError: of the first problem's kind, with the text of all.
    """
    listed = list(dict.fromkeys(checks))
    for check in listed:
        if check.status == WARNING:
            note(f"pre-flight: {sentence(check)}")
    problems = [check for check in listed if check.status == PROBLEM]
    if len(problems) == 1:
        raise problems[0].kind(sentence(problems[0]))
    if problems:
        texts = "".join(f"\n  {sentence(check)}" for check in problems)
        raise problems[0].kind(f"{where}: {len(problems)} problems before the first step:{texts}")


def sentence(check: Check) -> str:
    """A check in one line."""
    end = "" if check.found.endswith((".", "?", "!")) else "."
    return f"{check.name}: {check.found}{end} {check.remedy}".strip()


def as_table(checks: Iterable[Check], width: int = 110) -> Iterator[str]:
    """Lines of a table: status, name and what was found, the remedy below it, a count at the end."""
    listed = list(checks)
    column = max((len(check.name) for check in listed), default=0) + 2
    indent = " " * (9 + column)
    room = max(40, width - len(indent))
    for check in listed:
        lines = textwrap.wrap(check.found, room, break_long_words=False, break_on_hyphens=False) or [""]
        yield f"{check.status:9}{check.name:{column}}{lines[0]}"
        yield from (indent + line for line in lines[1:])
        if check.status != OK and check.remedy:
            for i, line in enumerate(textwrap.wrap(check.remedy, room - 3, break_on_hyphens=False)):
                yield f"{indent}{'-> ' if i == 0 else '   '}{line}"
    counts = {status: sum(check.status == status for check in listed) for status in (OK, WARNING, PROBLEM)}
    yield ", ".join(f"{n} {status}{'s' if status != OK and n != 1 else ''}" for status, n in counts.items())
