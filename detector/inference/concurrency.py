"""Several images at once from one thread of ``asyncio``: each takes a slot of a queue and runs in a thread.

A slot is a ``torch.cuda.Stream``, on which the image then runs, or any other object (on the CPU): the length
of the queue is how many run at once. Every detector works: threads run what ``inference_detector`` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from detector.errors import ConfigError
from detector.evaluation.results import MmdetResult
from detector.inference.prediction import ImageSource, inference_detector

_slot: ContextVar[Any] = ContextVar("slot", default=None)


@contextlib.asynccontextmanager
async def concurrent(queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """Hold a slot of a queue for the time of an ``async with`` block; waits while all are in use.

    Args:
        queue: of CUDA streams, or of any objects on the CPU.

    Yields:
        the slot.

    Raises:
        ConfigError: this is no queue.
    """
    if not isinstance(queue, asyncio.Queue):
        raise ConfigError(
            f"concurrent: found a {type(queue).__name__}, expected an asyncio.Queue that holds a "
            "torch.cuda.Stream for each image at once, or any objects on the CPU."
        )
    slot = await queue.get()
    token = _slot.set(slot)
    try:
        yield slot
    finally:
        _slot.reset(token)
        queue.put_nowait(slot)


async def async_inference_detector(
    model: nn.Module, imgs: ImageSource | Sequence[ImageSource]
) -> MmdetResult | list[MmdetResult]:
    """``inference_detector`` in a thread, on the stream of the ``concurrent`` block around it.

    Args:
        model: from ``init_detector``.
        imgs: as ``inference_detector`` takes them.

    Returns:
        one result, or a list of them for a list.

    Raises:
        DatasetError: an image cannot be read.
    """
    work = asyncio.ensure_future(asyncio.to_thread(_run, model, imgs, _slot.get()))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # the thread cannot be stopped; its slot must not be given to another image before it is done
        await asyncio.wait([work])
        raise


def _run(model: nn.Module, imgs: ImageSource, slot: Any) -> MmdetResult | list[MmdetResult]:
    """Runs in the thread."""
    if not (isinstance(slot, torch.Stream) and slot.device.type == "cuda"):
        return inference_detector(model, imgs)
    stream: Any = slot
    # weights that another stream has just written must be there
    stream.wait_stream(torch.cuda.default_stream(slot.device))
    with torch.cuda.stream(stream):
        result = inference_detector(model, imgs)
    stream.synchronize()
    return result
