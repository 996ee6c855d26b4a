"""Keeping secrets out of what is shown and kept: log lines, error messages, artifacts, links."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit, urlunsplit

MASK = "***"
VARIABLES = (  # whose values are secrets, wherever they turn up
    "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_AUTH_CONFIG_PASSWORD",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN",
)  # fmt: skip
SHORTEST = 4  # characters; a shorter value would blot out words that are no secret
IN_ADDRESS = re.compile(r"(?<=://)[^/@\s'\"]+(?=@)")  # name and password
IN_QUERY = re.compile(
    r"(?i)([?&](?:[\w-]*(?:token|password|passwd|secret|signature|api[_-]?key|access[_-]?key))=)[^&\s'\"]+"
)


def address(url: str) -> str:
    """A web address without login, query and fragment; what is none, such as a file's, stays as it is."""
    parts = urlsplit(url)
    bare = (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
    return urlunsplit(bare) if parts.netloc else url


def masked(text: str) -> str:
    """``text`` with a mask in place of logins in addresses and of the values of ``VARIABLES``."""
    if "://" in text:
        text = IN_QUERY.sub(rf"\g<1>{MASK}", IN_ADDRESS.sub(MASK, text))
    for value in _values():
        text = text.replace(value, MASK)
    return text


def _values() -> list[str]:
    """The secrets of this process, and the passwords in them, longest first."""
    found: set[str] = set()
    for name in VARIABLES:
        value = os.environ.get(name, "")
        found.update((value, value.partition(":")[2] if name.endswith("AUTH_STRING") else value))
    return sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)
