"""What a training did, and what came of it: the journals of its starts, and digests of its checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def journals(work_dir: Path) -> list[dict[int, str]]:
    """Per start of the training: iteration -> its batch, in the order of the steps.

    Raises:
        AssertionError: a start did not do consecutive iterations.
    """
    found = []
    for path in sorted(work_dir.glob("journal_*.txt"), key=lambda path: int(path.stem.rpartition("_")[2])):
        lines = [
            line.split(" ", 1) for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]
        numbers = [int(number) for number, _ in lines]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True, numbers
        found.append({int(number): batch.strip() for number, batch in lines})
    return found


def history(starts: Sequence[dict[int, str]]) -> list[tuple[int, str]]:
    """The steps that made the final weights: each start goes on from where the checkpoint before it ends."""
    steps: list[tuple[int, str]] = []
    for start in starts:
        if start:
            first = min(start)
            steps = [step for step in steps if step[0] < first] + sorted(start.items())
    return steps


def final_state(work_dir: Path) -> dict[str, Any]:
    """Digests of the last checkpoint's weights and optimizer and of the best one's weights, and its score."""
    from detector.checkpoint.files import load_checkpoint

    last = load_checkpoint(work_dir / "latest.pth")
    best = sorted(work_dir.glob("best_*.pth"))
    messages = last.meta["hook_msgs"]
    return {
        "weights": tensor_digest(last.state_dict),
        "optimizer": tensor_digest(last.optimizer or {}),
        "iteration": last.meta["iter"],
        "best": [(path.name, tensor_digest(load_checkpoint(path).state_dict)) for path in best],
        "last": Path(messages["last_ckpt"]).name,
    }


def tensor_digest(value: Any) -> str:
    """sha256 of nested tensors and numbers by their keys, whatever the file around them."""
    import torch

    found = hashlib.sha256()
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        name, node = pending.pop()
        if isinstance(node, dict):
            pending += [(f"{name}/{key}", node[key]) for key in sorted(node, key=str)]
        elif isinstance(node, list | tuple):
            pending += [(f"{name}/{i}", item) for i, item in enumerate(node)]
        elif hasattr(node, "numpy"):
            found.update(f"{name} {node.dtype} {tuple(node.shape)}".encode())
            found.update(node.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            found.update(f"{name} {json.dumps(node, default=str)}".encode())
    return found.hexdigest()
