"""Batches: grouping, padding, positions, workers, signals."""

from __future__ import annotations

import atexit
import gc
import multiprocessing.util
import os
import signal
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data import loader as loaders
from detector.data.collate import collate_views
from detector.data.datasets import build_dataset
from detector.data.loader import TrainLoader, build_test_loader, build_train_loader
from detector.data.samplers import GroupBatchSampler, OrderedBatchSampler, occurrence
from detector.structures.samples import Batch


def train_loader(folder: Any, workers: int = 0, **more: Any) -> TrainLoader:
    options = {"samples_per_gpu": 2, "seed": 1, **more}
    dataset = build_dataset(folder.section(masks=True, filter_empty_gt=True))
    return build_train_loader(dataset, workers_per_gpu=workers, **options)


def digest(batch: Batch) -> tuple[Any, ...]:
    targets = [(t.boxes.tolist(), t.labels.tolist(), int(t.masks.sum())) for t in batch.targets]
    return (tuple(batch.metas), batch.images.double().sum().item(), str(targets))


@given(
    wide=st.integers(0, 30),
    high=st.integers(0, 30),
    size=st.integers(1, 5),
    world=st.integers(1, 3),
    epoch=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_ranks_share_an_epoch_in_batches_of_one_group(
    wide: int, high: int, size: int, world: int, epoch: int
) -> None:
    groups = np.array([1] * wide + [0] * high)
    shares = []
    for rank in range(world):
        sampler = GroupBatchSampler(groups=groups, samples_per_gpu=size, seed=5, rank=rank, world_size=world)
        sampler.epoch = epoch
        batches = list(sampler) if len(groups) else []
        assert len(batches) == len(sampler)
        assert all(len({groups[k.index] for k in batch}) == 1 and len(batch) == size for batch in batches)
        shares.extend((k.index, k.repeat) for batch in batches for k in batch)
    assert {index for index, _ in shares} == set(range(len(groups)))
    assert len(set(shares)) == len(shares), "a repeated image gets other random numbers"
    # padding adds less than one step per group
    assert len(shares) - len(groups) < 2 * size * world + 1


def test_order_changes_with_epoch_and_seed_only() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = GroupBatchSampler(groups=np.zeros(50), samples_per_gpu=2, seed=seed)
        return sampler.order(epoch)[0].tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_without_shuffling_images_come_in_order() -> None:
    sampler = GroupBatchSampler(groups=np.array([0, 1, 0, 1, 0]), samples_per_gpu=2, seed=0, shuffle=False)
    assert [[k.index for k in batch] for batch in sampler] == [[0, 1], [2, 3], [4]]
    assert len(sampler) == 3


def test_occurrence_counts_earlier_uses() -> None:
    assert occurrence(np.array([4, 2, 4, 4, 2, 7])).tolist() == [0, 0, 1, 2, 1, 0]


def test_test_order_gives_each_image_once() -> None:
    parts = [
        [
            k.index
            for batch in OrderedBatchSampler(count=7, samples_per_gpu=2, rank=r, world_size=2)
            for k in batch
        ]
        for r in range(2)
    ]
    assert parts == [[0, 2, 4, 6], [1, 3, 5]]


def test_batch_is_padded_with_zero_to_its_largest_image(ten: Any) -> None:
    loader = train_loader(ten)
    for batch in loader:
        for image, meta, target in zip(batch.images, batch.metas, batch.targets, strict=True):
            assert tuple(target.masks.shape[1:]) == tuple(batch.images.shape[2:])
            assert (image[:, meta.pad_hw[0] :] == 0).all()
            assert (image[:, :, meta.pad_hw[1] :] == 0).all()
            assert len(target.boxes) == len(target.labels) == len(target.masks) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(ten: Any, workers: int) -> None:
    loader = train_loader(ten)
    alone = [digest(batch) for _ in range(2) for batch in loader]
    other = train_loader(ten, workers)
    together = [digest(batch) for _ in range(2) for batch in other]
    other.close()
    assert alone == together
    assert alone[: len(loader)] != alone[len(loader) :]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_continuing_in_mid_epoch_gives_the_batches_that_would_have_come(
    ten: Any, workers: int, stop: int
) -> None:
    whole = train_loader(ten)
    whole.set_position(4)
    expected = [digest(batch) for _ in range(2) for batch in whole]
    resumed = train_loader(ten, workers)
    resumed.set_position(4, stop)
    assert [digest(batch) for _ in range(2) for batch in resumed] == expected[stop:]
    assert resumed.position == (6, 0)
    resumed.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_abandoned_pass_leaves_its_position_and_no_old_batches(ten: Any, workers: int) -> None:
    expected = [digest(batch) for batch in train_loader(ten)]
    loader = train_loader(ten, workers)
    first = next(iter(loader))
    assert digest(first) == expected[0]
    assert loader.position == (0, 1)
    assert [digest(batch) for batch in loader] == expected[1:]
    loader.close()


def test_positions_outside_an_epoch_are_refused(ten: Any) -> None:
    loader = train_loader(ten)
    with pytest.raises(ValueError, match="outside an epoch of 6 batches"):
        loader.set_position(0, 7)


def test_global_random_state_is_left_alone(ten: Any) -> None:
    loader = train_loader(ten, 1)
    before = torch.get_rng_state()
    list(loader)
    loader.close()
    assert torch.equal(before, torch.get_rng_state())


def test_workers_outlive_signals_to_the_group_and_end_on_close(ten: Any) -> None:
    loader = train_loader(ten, 2)
    batches = iter(loader)
    next(batches)
    workers = [child for child in psutil.Process().children() if child.name() == "pt_data_worker"]
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(batches)) == len(loader) - 1
    assert all(worker.is_running() for worker in workers)
    loader.close()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_outlive_signals_while_they_start(ten: Any, number: int, monkeypatch: Any) -> None:
    start = loaders.start_worker

    def signalled_start(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), number)
        start(*arguments, **options)

    monkeypatch.setattr(loaders, "start_worker", signalled_start)
    loader = train_loader(ten, 2)
    assert len(list(loader)) == len(loader)
    loader.close()


@pytest.mark.parametrize("size", [1, 3])
def test_test_batches_hold_one_batch_per_view(ten: Any, size: int) -> None:
    dataset = build_dataset(ten.section(train=False), test_mode=True)
    seen = []
    for plain, flipped in build_test_loader(dataset, samples_per_gpu=size, workers_per_gpu=0):
        assert plain.targets is None
        assert [m.flip_direction for m in flipped.metas] == ["horizontal"] * len(plain.metas)
        seen.extend(meta.image_id for meta in plain.metas)
    assert seen == list(range(10))


@pytest.mark.parametrize("workers", [0, 1])
def test_test_batches_hold_one_padded_size(ten: Any, workers: int) -> None:
    """Images 0 to 6 are wide, 7 to 9 high: the batch of 6 and 7 is split."""
    dataset = build_dataset(ten.section(train=False), test_mode=True)
    loader = build_test_loader(dataset, samples_per_gpu=3, workers_per_gpu=workers)
    found = [batch for batch, _ in loader]
    loader.close()
    assert [[m.image_id for m in batch.metas] for batch in found] == [[0, 1, 2], [3, 4, 5], [6], [7, 8], [9]]
    assert [b for b in found if any(m.pad_hw != tuple(b.images.shape[2:]) for m in b.metas)] == []


def test_collate_views_pads_to_the_largest(ten: Any) -> None:
    dataset = build_dataset(ten.section(train=False), test_mode=True)
    plain, _ = collate_views([dataset[0], dataset[9]])
    assert plain.images.shape[2:] == (128, 128)
    assert [m.pad_hw for m in plain.metas] == [(96, 128), (128, 96)]


def test_a_program_that_never_closes_its_loader_ends(ten: Any) -> None:
    # a forked child stands for the program: it leaves through the exit hooks with its workers running
    section = ten.section()
    context = torch.multiprocessing.get_context("fork")
    program = context.Process(target=_leave_with_workers_running, args=(section,))
    program.start()
    program.join(timeout=30)
    assert program.exitcode == 0


def test_a_program_ends_whose_worker_was_killed(ten: Any) -> None:
    # the one left is stuck, as on a lock that died with its neighbour; the loader is gone before
    context = torch.multiprocessing.get_context("fork")
    program = context.Process(target=_leave_with_a_stuck_worker, args=(ten.section(),))
    program.start()
    program.join(timeout=60)
    code = program.exitcode
    program.kill()
    assert code == 0


def _leave_with_a_stuck_worker(section: dict[str, Any]) -> None:
    atexit._clear()
    atexit.register(multiprocessing.util._exit_function)
    loader = build_train_loader(build_dataset(section), samples_per_gpu=2, workers_per_gpu=2, seed=0)
    batches = iter(loader)
    next(batches)
    stuck, killed = psutil.Process().children()
    stuck.suspend()
    killed.kill()
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(batches)
    del batches, loader
    gc.collect()
    atexit._run_exitfuncs()


def _leave_with_workers_running(section: dict[str, Any]) -> None:
    atexit._clear()  # the test runner's own hooks are not this program's
    loader = build_train_loader(build_dataset(section), samples_per_gpu=2, workers_per_gpu=2, seed=0)
    next(iter(loader))
    atexit._run_exitfuncs()
