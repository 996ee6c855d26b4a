"""Comparisons of several runs, shown in the Prefect UI as a page of Markdown and a table."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_logger

PATIENCE = 15.0  # seconds; a server that is gone must not hold up a finished run


def show(key: str, text: str, rows: Sequence[Mapping[str, Any]], what: str) -> None:
    """Show ``text`` and ``rows`` with the running flow; a server that does not answer costs seconds.

    Args:
        key: of the artifacts: ``<key>-report`` and ``<key>-table``.
        text: Markdown.
        rows: of the table, all with the same names.
        what: the table in words.
    """

    def work() -> None:
        try:
            create_markdown_artifact(text, key=f"{key}-report", description=f"{what}, and how it came about")
            if rows:
                create_table_artifact([dict(row) for row in rows], key=f"{key}-table", description=what)
        except Exception as error:
            get_logger("report").warning("the comparison is not shown: %s", type(error).__name__)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    thread.join(PATIENCE)
