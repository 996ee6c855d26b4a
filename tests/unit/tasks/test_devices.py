from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detector.errors import MachineError
from tasks import devices
from tasks.registry import STEPS
from tasks.steps import Job

GPUS = ("GPU-aaaa", "GPU-abbb", "GPU-cccc")
LISTING = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111)
  MIG 3g.40gb     Device  1: (UUID: MIG-2222)
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three made-up GPUs, no mask, locks of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "gpu_uuids", lambda: GPUS)
    monkeypatch.setattr(devices, "EVERY", 0.01)
    monkeypatch.setenv(devices.FOLDER_VARIABLE, str(tmp_path / "locks"))
    monkeypatch.setenv("DETECTOR_CACHE", str(tmp_path / "cache"))
    for name in (devices.MASK, devices.SLOTS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def masks(*asked: tuple[str | None, int], log: Any = lambda text: None) -> list[str | None]:
    """The masks of runs that compute at the same time, one inside the other."""
    if not asked:
        return []
    (device, count), *others = asked
    before = os.environ.get(devices.MASK)
    with devices.taken(device, count, what="train of a", log=log):
        own = os.environ.get(devices.MASK)
        if before is None:
            os.environ.pop(devices.MASK, None)  # the next one starts from the user's mask, as its own process
        else:
            os.environ[devices.MASK] = before
        return [own, *masks(*others, log=log)]


@pytest.mark.parametrize(
    ("mask", "left"),
    [
        (None, list(GPUS)),
        ("2,0", ["GPU-cccc", "GPU-aaaa"]),
        ("GPU-c", ["GPU-cccc"]),
        ("GPU-a,1", []),
        ("1,7,0", ["GPU-abbb"]),
        ("0,0,1", ["GPU-aaaa", "GPU-abbb"]),
        ("", []),
        ("-1", []),
    ],
    ids=["none", "order", "prefix", "two fit", "ends at a wrong one", "twice", "empty", "minus one"],
)
def test_mask_decides_which_gpus_count(mask: str | None, left: list[str]) -> None:
    assert devices.visible(GPUS, mask) == left


def test_parts_of_a_split_gpu_take_its_place() -> None:
    assert devices.parsed(LISTING) == ("GPU-aaaa", "MIG-1111", "MIG-2222")
    assert devices.parsed("No devices were found\n") == ()


def test_each_run_gets_the_first_gpu_that_is_free() -> None:
    assert masks((None, 1), ("cuda", 1), (None, 1)) == list(GPUS)


def test_several_processes_get_as_many_gpus() -> None:
    assert masks((None, 2), (None, 1)) == ["GPU-aaaa,GPU-abbb", "GPU-cccc"]


def test_inherited_mask_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.MASK, "2,1")
    assert masks((None, 1), (None, 1)) == ["GPU-cccc", "GPU-abbb"]
    assert os.environ[devices.MASK] == "2,1"


def test_number_of_a_gpu_keeps_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask keeps all GPUs that were visible, so that cuda:1 stays cuda:1; only that one is taken."""
    monkeypatch.setenv(devices.MASK, "2,1")
    assert masks(("cuda:1", 1), (None, 1)) == ["GPU-cccc,GPU-abbb", "GPU-cccc"]


@pytest.mark.parametrize(
    ("device", "count", "said"),
    [
        ("cuda:3", 1, "found 3 GPUs; expected one with the number 3"),
        (None, 4, "expected 4 for 4 processes"),
    ],
)
def test_gpus_that_are_not_there_are_told(device: str | None, count: int, said: str) -> None:
    with pytest.raises(MachineError, match=said):
        devices.wanted(device, count)


def test_mask_is_named_where_it_hides_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.MASK, "0")
    with pytest.raises(MachineError, match=r"found 1 GPUs within CUDA_VISIBLE_DEVICES='0'; expected 2"):
        devices.wanted("cuda", 2)


@pytest.mark.parametrize(
    ("device", "count", "runs"), [(None, 1, 3), (None, 2, 1), ("cuda:1", 1, 1), ("cpu", 1, 1)]
)
def test_capacity(device: str | None, count: int, runs: int) -> None:
    assert devices.capacity(device, count) == runs


def test_cpu_has_one_place_or_as_many_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [place.name for place in devices.cpu_places()] == ["CPU place 1"]
    monkeypatch.setenv(devices.SLOTS_VARIABLE, "2")
    assert devices.capacity("cpu") == 2
    assert masks(("cpu", 1), ("cpu", 8)) == [None, None]
    monkeypatch.setenv(devices.SLOTS_VARIABLE, "none")
    with pytest.raises(MachineError, match="DETECTOR_CPU_SLOTS: found 'none'; expected how many"):
        devices.cpu_places()


def test_tests_on_the_cpu_wait_for_nobody() -> None:
    said: list[str] = []
    with (
        devices.taken("cpu", 1, what="train of a", log=said.append),
        devices.taken("cpu", 1, what="evaluate of a", log=said.append, cpu=False),
    ):
        assert said == []


def test_driver_without_a_list_of_its_gpus_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "gpu_uuids", tuple)
    monkeypatch.setattr(devices, "DRIVERS", (str(tmp_path),))
    assert masks(("cuda", 1), (None, 1), ("cuda:0", 1)) == [None, None, None]


def test_who_waits_says_for_whom_once_and_goes_on_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.MASK, "0")
    said: list[str] = []
    got = threading.Event()

    def second() -> None:
        with devices.taken(None, 1, what="train of b seed 1", log=said.append):
            got.set()

    with devices.taken(None, 1, what="train of a seed 0", log=said.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert not got.wait(0.2)
    assert got.wait(5)
    thread.join()
    (line,) = said
    assert line.startswith(
        "train of b seed 1: waiting: GPU 0 (GPU-aaaa) is taken by train of a seed 0 (process "
    )


HOLD = """
import sys, time
from tasks import devices
devices.gpu_uuids = lambda: ("GPU-aaaa",)
with devices.taken(None, 1, what="train of a", log=print):
    print("held", flush=True)
    time.sleep(60)
"""


def test_killed_holder_blocks_nobody() -> None:
    root = Path(devices.__file__).parents[1]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert masks((None, 1)) == ["GPU-abbb"]
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert masks((None, 1)) == ["GPU-aaaa"]


def test_two_that_need_several_never_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would hold what the other needs if both collected at once."""
    monkeypatch.setattr(devices, "_masked", lambda uuids: devices.ExitStack())
    done: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            with devices.taken(None, 2, what=f"train of {number}", log=lambda text: None):
                time.sleep(0.005)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(done) == [0, 1, 2, 3]


def test_place_is_held_while_a_step_runs_and_is_no_part_of_its_key() -> None:
    seen: list[str | None] = []

    def run(job: Job, request: Any) -> str:
        seen.append(os.environ.get(devices.MASK))
        return "made"

    request = SimpleNamespace(device=None, processes=1, name="a", seed=0)
    placed = devices.on_device(run)
    assert placed(Job(key="train-1", log=print), request) == "made"
    assert (seen, os.environ.get(devices.MASK)) == ([GPUS[0]], None)
    assert placed.__module__ == run.__module__


def test_steps_that_compute_take_a_place() -> None:
    placed = {name for name, step in STEPS.items() if hasattr(step.run, "__wrapped__")}
    assert placed >= {"train", "evaluate", "format"}
    assert not placed & {"prepare", "convert"}
