"""All processes' results on process 0, and its metrics before the others go on: by files, not collectives.

A collective fails when one process comes half an hour later than another, which slow images or a long
evaluation cause. A file may take any time. Processes that die are the launcher's business: torchrun ends the
others.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from detector.engine import distributed
from detector.errors import ConfigError, DetectorError
from detector.evaluation.files import write_bytes
from detector.evaluation.results import PanopticDetections, load_results, save_results
from detector.structures.samples import Detections

Results = dict[int | str, Detections]
T = TypeVar("T")

#: seconds in which a folder made by process 0 must be visible to all (network file systems cache listings)
VISIBLE_WITHIN = 60.0
#: seconds between two looks at a file
LOOK_EVERY = 0.1
#: seconds between two log lines while waiting
SAY_EVERY = 60.0

logger = logging.getLogger(__name__)


class OtherProcessError(DetectorError):
    """Another process failed, so that what was waited for will not come."""


@dataclass(frozen=True)
class Exchange:
    """A folder in which the processes of one evaluation leave files for each other.

    Attributes:
        folder: known to all processes.
        rank: number of this process.
        world_size: number of processes.
    """

    folder: Path
    rank: int
    world_size: int

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Leave a note if the block fails, so that nobody waits for this process."""
        try:
            yield
        except BaseException as error:
            note = f"process {self.rank}: {type(error).__name__}: {error}"
            with contextlib.suppress(OSError):  # the error itself matters more
                write_bytes(self.folder / f"failed_{self.rank}", note.encode())
            raise

    def hand_in(self, results: Results) -> None:
        """Leave this process's results for process 0."""
        records = [
            {
                "id": image_id,
                "boxes": d.boxes.numpy(),
                "scores": d.scores.numpy(),
                "labels": d.labels.numpy(),
                "masks": d.masks,
                "mask_scores": None if d.mask_scores is None else d.mask_scores.numpy(),
                "panoptic": d.panoptic if isinstance(d, PanopticDetections) else None,
            }
            for image_id, d in results.items()
        ]
        save_results(self.folder / f"part_{self.rank}.pkl", cast(Any, records))

    def collect(self, own: Results) -> Results:
        """On process 0: its own results and those of all others, once the last has handed in; parts go.

        Raises:
            OtherProcessError: one of them failed.
        """
        results = dict(own)
        for number in range(1, self.world_size):
            part = self.folder / f"part_{number}.pkl"
            self._wait_for(part, f"the results of process {number}")
            for record in load_results(part):
                results[record["id"]] = _detections(record)
            part.unlink()
        return results

    def on_first(self, work: Callable[[], T]) -> T | None:
        """Do something on process 0 while the others wait, however long it takes; None on the others.

        Raises:
            OtherProcessError: it failed there.
        """
        done = self.folder / "done"
        if self.rank == 0:
            with self.telling():
                value = work()
                write_bytes(done, b"")
            return value
        self._wait_for(done, "the metrics of process 0")
        (self.folder / f"left_{self.rank}").touch()
        if len(list(self.folder.glob("left_*"))) == self.world_size - 1:  # the last one tidies up
            self.close()
        return None

    def close(self) -> None:
        """Remove the folder, and its parent if nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run may use it
            self.folder.parent.rmdir()

    def _wait_for(self, path: Path, what: str) -> None:
        """Return when a file is there, and never for lack of patience."""
        start = said = time.monotonic()
        while not path.exists():
            for note in self.folder.glob("failed_*"):
                raise OtherProcessError(
                    f"{note}: found the note of another process ({note.read_text()}), expected {what}; see "
                    "that process's own message"
                )
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                logger.info("waiting for %s since %.0f s (%s)", what, said - start, path)
            time.sleep(LOOK_EVERY)


def open_exchange(shared_dir: Path) -> Exchange | None:
    """The folder of one evaluation, agreed on while all processes are at the same point; None when alone.

    Raises:
        ConfigError: this process does not see the folder that process 0 made.
    """
    if distributed.world_size() == 1:
        return None
    name = ""
    if distributed.rank() == 0:
        shared_dir.mkdir(parents=True, exist_ok=True)
        name = Path(tempfile.mkdtemp(dir=shared_dir)).name
    folder = shared_dir / distributed.broadcast_text(name)
    limit = time.monotonic() + VISIBLE_WITHIN
    while not folder.is_dir():
        if time.monotonic() > limit:
            raise ConfigError(
                f"{folder}: process {distributed.rank()} does not find the folder that process 0 made, "
                "expected one that all machines share; give --tmpdir (test) or --work-dir (train) on a "
                "shared disk"
            )
        time.sleep(LOOK_EVERY)
    return Exchange(folder, distributed.rank(), distributed.world_size())


def _detections(record: Mapping[str, Any]) -> Detections:
    """Detections of one gathered record."""
    boxes, scores, labels = (torch.from_numpy(record[key].copy()) for key in ("boxes", "scores", "labels"))
    mask_scores = record.get("mask_scores")
    found = Detections(
        boxes=boxes,
        scores=scores,
        labels=labels,
        masks=record["masks"],
        mask_scores=None if mask_scores is None else torch.from_numpy(mask_scores.copy()),
    )
    if record.get("panoptic") is None:
        return found
    return PanopticDetections(**vars(found), panoptic=record["panoptic"])
