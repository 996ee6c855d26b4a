"""Which samples come when: batches of sample keys, decided by (seed, epoch) alone.

Source: grouping and padding checked against MMDetection 2.28.2 datasets/samplers/group_sampler.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.data.datasets.source import SampleKey
from detector.errors import ConfigError

# keeps the order of images apart from the random numbers inside the samples, which start from the same seed
ORDER_STREAM = 0x6F72646572


class GroupBatchSampler:
    """Training batches in which all images are wide, or all are high, for one rank.

    Every epoch each aspect group is shuffled and filled up with its own first images to a multiple of
    samples_per_gpu * world_size; then the batches are shuffled and each rank takes its contiguous part.
    Without shuffling, images come in order and ungrouped, filled up from the start so that ranks get equally
    many.

    Args:
        groups: (n,) small integers, one per image.
        samples_per_gpu: batch size of one rank.
        seed: base seed, the same on every rank.
        rank: this process.
        world_size: number of processes.
        shuffle: whether to shuffle and group.
    """

    def __init__(
        self,
        *,
        groups: NDArray[Any],
        samples_per_gpu: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        if samples_per_gpu < 1:
            raise ConfigError(f"samples_per_gpu is {samples_per_gpu}; expected at least 1.")
        self.groups = np.asarray(groups)
        self.samples_per_gpu = samples_per_gpu
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        step = self.samples_per_gpu * self.world_size
        if not self.shuffle:
            per_rank = -(-len(self.groups) // self.world_size)
            return -(-per_rank // self.samples_per_gpu)
        return sum(-(-int(count) // step) for count in np.unique(self.groups, return_counts=True)[1])

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """The batches of ``epoch`` from batch ``start`` on."""
        epoch, start, size = self.epoch, self.start, self.samples_per_gpu
        indices, repeats = self.order(epoch)
        for begin in range(start * size, len(indices), size):
            part = range(begin, min(begin + size, len(indices)))
            yield [SampleKey(int(indices[i]), epoch, int(repeats[i])) for i in part]

    def order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """This rank's indices of an epoch in order, and how often each was used before in the epoch."""
        everyone = self._shuffled(epoch) if self.shuffle else self._in_order()
        repeats = occurrence(everyone)
        if self.shuffle:
            share = len(everyone) // self.world_size
            mine = slice(self.rank * share, (self.rank + 1) * share)
        else:
            mine = slice(self.rank, None, self.world_size)
        return everyone[mine], repeats[mine]

    def _in_order(self) -> NDArray[np.int64]:
        count = len(self.groups)
        return np.arange(-(-count // self.world_size) * self.world_size) % count

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((ORDER_STREAM, self.seed, epoch))
        step = self.samples_per_gpu * self.world_size
        parts = []
        for group in np.unique(self.groups):
            members = rng.permutation(np.flatnonzero(self.groups == group))
            parts.append(np.resize(members, -(-len(members) // step) * step))
        batches = np.concatenate(parts).reshape(-1, self.samples_per_gpu)
        order: NDArray[np.int64] = batches[rng.permutation(len(batches))].reshape(-1)
        return order


class OrderedBatchSampler:
    """Test batches in file order; rank r of w takes images r, r + w, ... and none is given twice.

    Args:
        count: number of images.
        samples_per_gpu: batch size.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, *, count: int, samples_per_gpu: int, rank: int = 0, world_size: int = 1) -> None:
        if samples_per_gpu < 1:
            raise ConfigError(f"samples_per_gpu is {samples_per_gpu}; expected at least 1.")
        self.indices = range(rank, count, world_size)
        self.samples_per_gpu = samples_per_gpu

    def __len__(self) -> int:
        return -(-len(self.indices) // self.samples_per_gpu)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for begin in range(0, len(self.indices), self.samples_per_gpu):
            yield [SampleKey(i) for i in self.indices[begin : begin + self.samples_per_gpu]]


def occurrence(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) how often each value appeared earlier in the array."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(values) else order
    first = np.repeat(starts, np.diff(np.append(starts, len(values))))
    out = np.empty(len(values), np.int64)
    out[order] = np.arange(len(values)) - first
    return out
