"""A digest of weights that does not depend on the file they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """sha256 over names and bytes of a state dict, in its order: equal for equal weights, on any device."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        flat: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(flat)
    return digest.hexdigest()
