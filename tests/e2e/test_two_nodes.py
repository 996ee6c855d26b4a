"""One run on two machines, each with its own `detector train --gpus 1`; then the cable between is cut."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.runs_of_many import Run, free_port, trained, wait_for, write_tiny
from tests.e2e.two_machines import Machines, NamespacesUnavailable, two_machines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detector: 20 iterations of two processes."""
    return write_tiny(tmp_path_factory.mktemp("nodes"), images=80)


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Two machines with a cable of their own."""
    try:
        with two_machines() as both:
            yield both
    except NamespacesUnavailable as reason:
        pytest.skip(f"no network namespaces here: {reason}")


def nodes(config: Path, folder: Path, machines: Machines | None, **environ: str) -> list[Run]:
    """The same command for both machines, or twice on this one's loopback."""
    port, address = str(free_port()), machines.addresses[0] if machines else "127.0.0.1"
    shared = {"NNODES": "2", "MASTER_ADDR": address, "PORT": port, **environ}
    command = ["train", str(config), "--work-dir", str(folder / "run"), "--seed", "3", "--gpus", "1"]
    return [
        Run(
            [*command, "--device", "cpu"],
            folder / f"node{number}.txt",
            {**shared, "NODE_RANK": str(number)},
            prefix=machines.prefix(number) if machines else (),
        )
        for number in range(2)
    ]


def test_two_agents_on_one_machine_train_one_job(config: Path, tmp_path: Path) -> None:
    check_whole_run(nodes(config, tmp_path, None), tmp_path / "run")


def test_two_machines_train_one_job(config: Path, tmp_path: Path, machines: Machines) -> None:
    check_whole_run(nodes(config, tmp_path, machines), tmp_path / "run")


def test_a_failure_on_one_machine_ends_the_other(config: Path, tmp_path: Path) -> None:
    both = nodes(config, tmp_path, None)
    both[1].arguments = [*both[1].arguments, "--cfg-options", "optimizer.type=AdamX"]
    with both[0] as first, both[1] as second:
        codes = [run.ended(within=400)[0] for run in (second, first)]
    assert codes == [1, 1], first.said + second.said
    assert re.search(r"rank 1 \(host \S+, pid \d+\).*AdamX", first.said), first.said


def check_whole_run(both: list[Run], work_dir: Path) -> None:
    """Both end well, and one of them wrote the log of all iterations."""
    with both[0] as first, both[1] as second:
        codes = [run.ended(within=400)[0] for run in (first, second)]
    assert codes == [0, 0], first.said + second.said
    assert trained(work_dir) == [(1, number) for number in range(1, 21)]
    assert "20 iterations an epoch" in first.said
    assert (work_dir / "epoch_1.pth").is_file()


def test_a_cut_cable_is_noticed_and_names_the_other_machine(
    config: Path, tmp_path: Path, machines: Machines
) -> None:
    both = nodes(config, tmp_path, machines, DETECTOR_HEARTBEAT_S=os.environ.get("DETECTOR_HEARTBEAT_S", "9"))
    with ExitStack() as stack:
        first, second = (stack.enter_context(run) for run in both)
        wait_for(
            lambda: len(trained(tmp_path / "run")) >= 2, within=400, say=lambda: first.said + second.said
        )
        machines.cut()
        cut = time.monotonic()
        codes = [run.ended(within=100)[0] for run in (first, second)]
        seconds = time.monotonic() - cut
    assert codes == [1, 1], first.said + second.said
    assert re.search(r"rank 1 \(host \S+, pid \d+\): no sign of life for \d+ s", first.said), first.said
    assert re.search(r"rank 0 \(host \S+, pid \d+\): its machine, .* has not answered", second.said), (
        second.said
    )
    assert seconds < 60
    print(f"both ended {seconds:.1f} s after the cut")
