"""Batches from worker processes, the same whatever the number of workers, from any point of an epoch on.

Shapes: B images, H x W the largest padded size of the batch.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, groupby
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from detector.data.collate import Packed, pack_training, pack_views
from detector.data.datasets.source import Fetched, SampleKey, SampleSource, View
from detector.data.samplers import GroupBatchSampler, OrderedBatchSampler
from detector.data.workers import PATIENCE, STARTS, Arrivals, kill, signals_held, start_worker
from detector.errors import DetectorError
from detector.structures.samples import Batch

log = logging.getLogger(__name__)


class _Fetch(Dataset[Fetched | DetectorError]):
    """Runs in the worker: turns a user's error into a value, which leaves without a traceback."""

    def __init__(self, source: SampleSource) -> None:
        self.source = source

    def __getitem__(self, key: SampleKey) -> Fetched | DetectorError:
        try:
            return self.source.fetch(key)
        except DetectorError as error:
            return error


def _collate(fetched: Sequence[Fetched | DetectorError], *, training: bool) -> list[Packed]:
    """Runs in the worker: samples to packed batches, one in training, one per run of equal sizes in testing.

    Padding an image to its neighbours' size changes its detections, so test results would depend on the batch
    size.
    """
    errors = [f for f in fetched if isinstance(f, DetectorError)]
    if errors:
        return [Packed(images=[], metas=[], error=errors[0])]
    good = [f for f in fetched if isinstance(f, Fetched)]
    items: list[Any] = [f.item for f in good]
    packed = (
        [pack_training(items)] if training else [pack_views(list(run)) for _, run in groupby(items, _sizes)]
    )
    skipped = tuple(name for f in good for name in f.skipped)
    return [replace(packed[0], skipped=skipped), *packed[1:]]


def _sizes(views: Sequence[View]) -> tuple[tuple[int, ...], ...]:
    """Sizes of the views of a test image."""
    return tuple(tuple(view[0].shape) for view in views)


class _Loader:
    """A DataLoader whose workers live from the first batch to ``close``.

    Args:
        dataset: where samples come from.
        sampler: gives the keys of each batch.
        workers: number of processes; 0 works in this one.
        training: whether samples carry targets.
        pin_memory: whether batches lie in page-locked memory.
    """

    def __init__(
        self,
        *,
        dataset: SampleSource,
        sampler: GroupBatchSampler | OrderedBatchSampler,
        workers: int,
        training: bool,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self._sampler = sampler
        self._named: set[str] = set()
        self._at_exit: Callable[[], None] | None = None
        self._arrivals: Arrivals | None = None
        batches: Sampler[Any] = sampler  # type: ignore[assignment]
        # a death signal follows the thread that started the worker, so it is asked for only from the main one
        main_thread = threading.current_thread() is threading.main_thread()
        options: dict[str, Any] = {}
        if workers > 0:
            context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
            self._arrivals = Arrivals(context, workers)
            options = {
                "persistent_workers": True,
                "prefetch_factor": 2,
                "worker_init_fn": partial(start_worker, arrivals=self._arrivals, die_with_parent=main_thread),
                "multiprocessing_context": context,
            }
        self._loader: DataLoader[Any] = DataLoader(
            _Fetch(dataset),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=partial(_collate, training=training),
            pin_memory=pin_memory,
            # its own generator, so that starting workers draws nothing from the global one (exact resume)
            generator=torch.Generator(),
            **options,
        )

    def __len__(self) -> int:
        """Batches of a whole pass on this rank."""
        return len(self._sampler)

    def _started(self) -> Iterator[list[Packed]]:
        """The batches of a pass, once every worker is there; those of a start that hangs are replaced.

        Raises:
            DetectorError: no start brought all workers.
        """
        for _ in range(STARTS):
            with signals_held():
                batches = iter(self._loader)
            workers = getattr(batches, "_workers", [])
            self._end_at_exit(workers)
            late = self._arrivals.missing(workers) if self._arrivals is not None else []
            if not late:
                return batches
            log.warning("%s did not start and are replaced", ", ".join(f"loader worker {i}" for i in late))
            self.close()
        raise DetectorError(
            f"the loader's workers did not start within {PATIENCE:.0f} s, {STARTS} times; expected them in a "
            "second. Look at the machine's load and free memory, or set data.workers_per_gpu=0."
        )

    def _packed(self) -> Iterator[Packed]:
        for packed in chain.from_iterable(self._started()):
            if packed.error is not None:
                raise packed.error
            for name in packed.skipped:
                if name not in self._named:
                    self._named.add(name)
                    log.warning("left out (corrupt='skip'): %s", name)
            yield packed

    def _end_at_exit(self, workers: Sequence[BaseProcess]) -> None:
        """Let the end of the program kill these workers, should nobody have called ``close``.

        Registered after the workers' own exit hooks, so that it runs before them: they send SIGTERM and
        wait, and would wait forever for workers that ignore it. It holds the workers and not the loader,
        because a worker whose neighbour died with a lock in its hand outlives the loader.
        """
        if workers and self._at_exit is None:
            self._at_exit = partial(kill, list(workers))
            atexit.register(self._at_exit)

    def close(self) -> None:
        """End the workers; a later pass starts new ones."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is None:
            return
        iterator._shutdown_workers()
        if self._at_exit is not None:
            self._at_exit()
            atexit.unregister(self._at_exit)
            self._at_exit = None
        for worker in iterator._workers:
            worker.join(5)
        self._loader._iterator = None
        if self._arrivals is not None:
            self._arrivals.clear()


class TrainLoader(_Loader):
    """Iterating gives the batches from the current position to the end of the epoch, then moves to the next.

    ``set_position`` goes anywhere; the batches from there on are exactly those that a run which never
    stopped would get.
    Epochs and iterations count from 0.
    """

    _sampler: GroupBatchSampler

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, iteration) of the batch that comes next."""
        return self._sampler.epoch, self._sampler.start

    def set_position(self, epoch: int, iteration: int = 0) -> None:
        """Let the next pass begin at batch ``iteration`` of ``epoch``.

        Raises:
            ValueError: the epoch has fewer batches.
        """
        if not 0 <= iteration <= len(self) or epoch < 0:
            raise ValueError(
                f"position (epoch {epoch}, iteration {iteration}) outside an epoch of {len(self)} batches"
            )
        self._sampler.epoch, self._sampler.start = epoch, iteration

    def __iter__(self) -> Iterator[Batch]:
        """Batches of one epoch."""
        epoch, begin = self.position
        for done, packed in enumerate(self._packed(), start=begin + 1):
            # the sampler's iterator runs ahead by the prefetched batches; it read `start` at its beginning
            self._sampler.start = done
            yield packed.batches()[0]
        self._sampler.epoch, self._sampler.start = epoch + 1, 0


class TestLoader(_Loader):
    """Iterating gives one list of batches, a Batch per view, for every group of test images in order.

    Images of a batch have one padded size: where it changes, the sampler's batch is split.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    def __iter__(self) -> Iterator[list[Batch]]:
        """All images of this rank; images left out by corrupt='skip' are missing from their batch."""
        for packed in self._packed():
            if packed.images:
                yield packed.batches()


def build_train_loader(
    dataset: SampleSource,
    *,
    samples_per_gpu: int,
    workers_per_gpu: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    shuffle: bool = True,
    pin_memory: bool = False,
) -> TrainLoader:
    """Training batches of one rank.

    Args:
        dataset: a training dataset; gets ``seed``.
        samples_per_gpu: batch size.
        workers_per_gpu: worker processes; the batches do not depend on it.
        seed: decides order and augmentation together with the epoch; the same on every rank.
        rank: this process.
        world_size: number of processes.
        shuffle: whether images come shuffled and in batches of one aspect group.
        pin_memory: whether batches lie in page-locked memory.

    Raises:
        DatasetError: image files are missing.
    """
    dataset.check_images()
    dataset.seed = seed
    sampler = GroupBatchSampler(
        groups=dataset.aspect_groups(),
        samples_per_gpu=samples_per_gpu,
        seed=seed,
        rank=rank,
        world_size=world_size,
        shuffle=shuffle,
    )
    return TrainLoader(
        dataset=dataset, sampler=sampler, workers=workers_per_gpu, training=True, pin_memory=pin_memory
    )


def build_test_loader(
    dataset: SampleSource,
    *,
    samples_per_gpu: int,
    workers_per_gpu: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> TestLoader:
    """Test batches of one rank, in order, each image once.

    Args:
        dataset: a dataset built with test_mode=True.
        samples_per_gpu: largest batch; only neighbours of one padded size share one.
        workers_per_gpu: worker processes.
        rank: this process.
        world_size: number of processes.
        pin_memory: whether batches lie in page-locked memory.

    Raises:
        DatasetError: image files are missing.
    """
    dataset.check_images()
    sampler = OrderedBatchSampler(
        count=len(dataset), samples_per_gpu=samples_per_gpu, rank=rank, world_size=world_size
    )
    return TestLoader(
        dataset=dataset, sampler=sampler, workers=workers_per_gpu, training=False, pin_memory=pin_memory
    )
