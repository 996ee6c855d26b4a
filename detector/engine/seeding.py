"""Randomness: every step starts from (seed, epoch, iteration, rank), so a resumed run repeats it exactly."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from detector.errors import ConfigError

SEED_LIMIT = 2**31


def choose_seed(seed: int | None) -> int:
    """The given seed, or a fresh one below 2**31.

    Raises:
        ConfigError: the seed is no whole number from 0 to 2**32 - 1.
    """
    if seed is None:
        return int.from_bytes(os.urandom(4), "little") % SEED_LIMIT
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ConfigError(
            f"seed: found {seed!r}; expected a whole number from 0 to {2**32 - 1}. Give one, or none for a "
            "random one."
        )
    return seed


def seed_all(seed: int) -> None:
    """Seed python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what users' code may draw from
    torch.manual_seed(seed)


def seed_step(seed: int, epoch: int, iteration: int, rank: int) -> None:
    """Start every generator for one training step; a pure function of its arguments."""
    seed_all(int(np.random.SeedSequence([seed, epoch, iteration, rank]).generate_state(1)[0]))


def set_deterministic(enabled: bool) -> None:
    """Ask torch for deterministic kernels; one that has none warns instead of stopping the run."""
    if not enabled:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
