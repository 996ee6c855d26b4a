"""Downloading one file over HTTP: resumes, retries, checks, and appears whole.

Data sets (``data/download``) and weights (``checkpoint/weights.py``) come through here. Standard library
only.
"""

from __future__ import annotations

from detector.fetch.fetching import fetch
from detector.fetch.transfer import PATIENCE, Patience

__all__ = ["PATIENCE", "Patience", "fetch"]
