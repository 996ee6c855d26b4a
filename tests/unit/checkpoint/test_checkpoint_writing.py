"""Writing a checkpoint where the disk is full, failing, or gone."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.checkpoint import files
from detector.checkpoint.files import (
    CheckpointNotWritten,
    load_checkpoint,
    manifest_path,
    payload_bytes,
    save_checkpoint,
    verify_checkpoint,
)
from tests.endurance.full_disk import largest_file


def payload(number: int, values: int = 20_000) -> dict[str, Any]:
    state = {f"w{i}": torch.full((values,), float(number)) for i in range(5)}
    return {"meta": {"iter": number}, "state_dict": state, "optimizer": {"state": {0: {"step": number}}}}


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.002, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999])
def test_a_write_that_fails_anywhere_leaves_the_file_before(tmp_path: Path, share: float) -> None:
    path = tmp_path / "epoch_1.pth"
    save_checkpoint(path, payload(1))
    with (
        largest_file(int(share * path.stat().st_size)),
        pytest.raises(CheckpointNotWritten, match="too large"),
    ):
        save_checkpoint(path, payload(2))
    assert verify_checkpoint(path)
    assert load_checkpoint(path).meta == {"iter": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch_1.pth", "epoch_1.pth.sha256"]
    save_checkpoint(path, payload(2))
    assert load_checkpoint(path).meta == {"iter": 2}


def test_the_free_room_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda folder: 300_000)
    monkeypatch.setattr(torch, "save", lambda *arguments: pytest.fail("began to write"))
    with pytest.raises(CheckpointNotWritten, match=r"found 0\.3 MiB free; expected 0\.4 MiB"):
        save_checkpoint(tmp_path / "epoch_1.pth", payload(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_an_error_of_the_disk_at_the_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    save_checkpoint(tmp_path / "epoch_1.pth", payload(1))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointNotWritten, match=os.strerror(code)):
        save_checkpoint(tmp_path / "epoch_1.pth", payload(2))
    assert verify_checkpoint(tmp_path / "epoch_1.pth")
    assert load_checkpoint(tmp_path / "epoch_1.pth").meta == {"iter": 1}


def test_a_disk_that_garbles_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = torch.save

    def garbled(content: Any, stream: Any) -> None:
        memory = io.BytesIO()
        honest(content, memory)
        through = stream._stream.write
        stream._stream = type("Stream", (), {"write": lambda self, data: through(bytes(data)[::-1])})()
        stream.write(memory.getvalue())

    save_checkpoint(tmp_path / "epoch_1.pth", payload(1))
    monkeypatch.setattr(torch, "save", garbled)
    with pytest.raises(CheckpointNotWritten, match="other bytes on the disk"):
        save_checkpoint(tmp_path / "epoch_1.pth", payload(2))
    assert load_checkpoint(tmp_path / "epoch_1.pth").meta == {"iter": 1}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointNotWritten, match="File exists"):
        save_checkpoint(tmp_path / "file" / "x.pth", payload(1))


def test_the_manifest_is_what_sha256sum_reads(tmp_path: Path) -> None:
    digest = save_checkpoint(tmp_path / "x.pth", payload(1))
    assert digest == files.sha256_file(tmp_path / "x.pth")
    assert manifest_path(tmp_path / "x.pth").read_bytes() == f"{digest}  x.pth\n".encode()


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
    text=st.text(max_size=3000),
)
def test_the_size_is_not_underestimated(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int]], kind: torch.dtype, text: str
) -> None:
    state = {f"layer{i}.weight": torch.zeros(shape, dtype=kind) for i, shape in enumerate(shapes)}
    state |= {f"view{i}": value[1:] for i, value in enumerate(list(state.values())[:3])}
    content = {"meta": {"config": text}, "state_dict": state}
    path = tmp_path_factory.mktemp("sizes") / "x.pth"
    save_checkpoint(path, content)
    # utf-8 takes up to four bytes a letter; a config is ascii
    assert path.stat().st_size <= payload_bytes(content) + 3 * len(text)
    assert payload_bytes(content) <= path.stat().st_size + 4096 + 512 * len(state)
