"""The cycle collector stands still while annotation files are read, and is as before afterwards."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.collector import collector_paused
from detector.errors import DatasetError
from detector.evaluation import annotations


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    was_on = gc.isenabled()
    yield
    (gc.enable if was_on else gc.disable)()


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_as_before(was_on: bool) -> None:
    (gc.enable if was_on else gc.disable)()
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled() is was_on
    with pytest.raises(KeyError), collector_paused():
        raise KeyError
    assert gc.isenabled() is was_on


def test_it_is_paused_while_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.enable()
    seen: list[bool] = []
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [], "categories": []}))

    def loads(data: bytes) -> object:
        seen.append(gc.isenabled())
        return json.JSONDecoder().decode(data.decode())

    monkeypatch.setattr(annotations.json, "loads", loads)
    annotations.read_annotations(path)
    path.write_text("{cut")
    with pytest.raises(DatasetError, match="cannot be read as JSON"):
        annotations.read_annotations(path)
    assert seen == [False, False]
    assert gc.isenabled()
