"""Where the time of a detection goes: a stopwatch that modules and the mask encoder start and stop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from pycocotools import mask as coco_mask
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from detector.ops import mask_paste

STAGES = ("decode", "preprocess", "forward", "post-process", "rle")


class Stopwatch:
    """Seconds of each of ``STAGES``.

    'forward' is the time inside modules (backbone, neck, heads, region extractors), 'rle' the time inside the
    run-length encoder, 'post-process' what else the model's ``predict`` does: choosing, suppressing, pasting.

    Args:
        device: on a GPU the clock waits for it wherever it is read.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.depth, self.begin = device, 0, 0.0
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def now(self) -> float:
        """Seconds on a clock, after the device has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextlib.contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Add the time of a ``with`` block to a stage."""
        begin = self.now()
        yield
        self.seconds[stage] += self.now() - begin

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Divide the time of a ``with`` block, in which a model predicts, over the last three stages."""
        before, begin = self.seconds["forward"] + self.seconds["rle"], self.now()
        hooks = (
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        )
        try:
            with (
                mock.patch.object(coco_mask, "encode", self._timed(coco_mask.encode)),
                mock.patch.object(mask_paste, "encode_runs", self._timed(mask_paste.encode_runs)),
            ):
                yield
        finally:
            for hook in hooks:
                hook.remove()
        own = self.seconds["forward"] + self.seconds["rle"] - before
        self.seconds["post-process"] += self.now() - begin - own

    def _enter(self, _module: Any, _inputs: Any) -> None:
        if self.depth == 0:
            self.begin = self.now()
        self.depth += 1

    def _leave(self, _module: Any, _inputs: Any, _outputs: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.seconds["forward"] += self.now() - self.begin

    def _timed(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with self.measured("rle"):
                return encode(*args)

        return run
