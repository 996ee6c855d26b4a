"""Settings that every test needs before torch is imported."""

from __future__ import annotations

import os

# Idle OpenMP threads would spin while a test waits for a training that it started in another process.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
