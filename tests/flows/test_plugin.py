from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import place, plugin

LINE = ["prefect", "deployment", "run", "train-eval", "--param", "config=mask_rcnn"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (LINE, ("run", "train-eval/train-eval")),
        (["prefect", "deployments", "inspect", "test-dev", "-o", "json"], ("inspect", "test-dev/test-dev")),
        (["prefect", "deployment", "run", "train-eval/train-eval"], ("run", "train-eval/train-eval")),
        (["prefect", "deployment", "run", "--watch", "train-eval"], ("run", "train-eval/train-eval")),
        (
            ["prefect", "deployment", "run", "--param=config=x", "train-eval"],
            ("run", "train-eval/train-eval"),
        ),
        (
            ["prefect", "deployment", "run", "train-eval", "--param=config=x"],
            ("run", "train-eval/train-eval"),
        ),
        (["prefect", "deployment", "run", "--name", "train-eval"], ("run", "train-eval/train-eval")),
        (["prefect", "--no-prompt", *LINE[1:]], ("run", "train-eval/train-eval")),
        (["prefect", "--profile", "mine", "--prompt", *LINE[1:]], ("run", "train-eval/train-eval")),
        (["prefect", "--profile=mine", *LINE[1:]], ("run", "train-eval/train-eval")),
        (["prefect", "deployment", "pause", "--no-prompt", "test-dev"], ("pause", "test-dev/test-dev")),
        ([*LINE, "--help"], None),
        (["prefect", "deployment", "run", "-h", "train-eval"], None),
        (["prefect", "deployment", "schedule", "ls", "train-eval"], None),
        (["prefect", "--no-prompt"], None),
        (["prefect", "deployment", "run", "somebody-elses"], None),
        (["prefect", "deployment", "run", "theirs/theirs", "--tag", "train"], None),
        (["prefect", "deployment", "ls"], None),
        (["prefect", "flow-run", "ls"], None),
        (["prefect"], None),
    ],
)
def test_our_names_are_completed(argv: list[str], expected: tuple[str, str] | None) -> None:
    line = list(argv)
    assert plugin.expand(line) == expected
    assert ("train-eval/train-eval" in line or "test-dev/test-dev" in line) is (expected is not None)
    assert len(line) == len(argv)


def test_hook_rewrites_the_command_line_and_starts_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin.sys, "argv", list(LINE))
    started = place.Serving(url="http://127.0.0.1:4999/api", pid=1, ready=True)
    monkeypatch.setattr(plugin, "wait_until_ready", lambda: started)
    result = plugin.setup_environment(ctx=SimpleNamespace(api_url=None))
    assert plugin.sys.argv[3] == "train-eval/train-eval"
    assert result is not None
    assert result.env == {"PREFECT_API_URL": "http://127.0.0.1:4999/api"}


@pytest.mark.parametrize(
    ("argv", "api_url"),
    [
        (["python", "-m", "somewhere"], None),
        (["prefect", "deployment", "ls"], None),
        (LINE, "http://127.0.0.1:1/api"),
        (["prefect", "deployment", "run", "train-eval/process"], None),
        ([*LINE, "--help"], None),
        (["/site-packages/flows/train_eval.py", *LINE[1:]], None),
    ],
    ids=["other program", "no run", "server given", "a worker's", "help", "not the command line"],
)
def test_hook_starts_nothing_otherwise(
    argv: list[str], api_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise AssertionError("started")

    monkeypatch.setattr(plugin.sys, "argv", list(argv))
    monkeypatch.setattr(plugin, "start_in_background", refuse)
    assert plugin.setup_environment(ctx=SimpleNamespace(api_url=api_url)) is None


def test_hint_when_nothing_serves_at_the_given_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugin.sys, "argv", list(LINE))
    assert plugin.setup_environment(ctx=SimpleNamespace(api_url="http://127.0.0.1:1/api")) is None
    said = capsys.readouterr().err
    assert "nothing serves train-eval/train-eval there: type `python -m flows.serve`" in said
    assert plugin.sys.argv[3] == "train-eval/train-eval"


@pytest.mark.parametrize(
    ("status", "served", "said"),
    [(200, False, "prefect worker start --pool"), (200, True, ""), (401, False, "")],
    ids=["no worker", "a worker", "login unknown"],
)
def test_hint_names_the_worker_of_its_deployments(
    status: int, served: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"status": "READY" if served else "NOT_READY"}
    asked: list[str] = []
    monkeypatch.setattr(place, "post", lambda url, body: (status, 0))
    monkeypatch.setattr(place, "get", lambda url: asked.append(url) or state)
    plugin.hint("http://me:secret@127.0.0.1:1/api", "train-eval/process")
    shown = capsys.readouterr().err
    assert (said in shown) if said else (shown == "")
    assert "secret" not in shown
    assert all(url.endswith("/deployments/name/train-eval/process") for url in asked)


def test_one_that_was_started_meanwhile_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = place.Serving(url="http://127.0.0.1:1/api", pid=1, ready=True)
    seen = iter([None, replace(ready, ready=False), ready])
    monkeypatch.setattr(place, "answers", lambda url: True)
    monkeypatch.setattr(place, "live", lambda: next(seen))
    monkeypatch.setattr(plugin, "start_in_background", lambda: pytest.fail("started a second one"))
    with place.lock() as ours:
        assert ours
        assert plugin.wait_until_ready() == ready


@pytest.mark.parametrize("running", [True, False])
def test_state_counts_only_while_its_writer_lives(running: bool, listening: str) -> None:
    with place.lock():
        place.Serving(url=listening, pid=os.getpid(), ready=True).save()
        if running:
            assert place.live() == place.Serving(url=listening, pid=os.getpid(), ready=True)
    if not running:
        assert place.STATE.exists()
        assert place.live() is None


def test_second_holder_is_refused_and_the_next_one_starts_clean() -> None:
    with place.lock() as first, place.lock(patience=0) as second:
        assert (first, second) == (True, False)
        assert place.held()
        place.Serving(url="x", pid=1).save()
    assert not place.held()
    with place.lock():
        assert not place.STATE.exists()


def test_stop_signals_nobody_without_a_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    place.Serving(url="http://127.0.0.1:1/api", pid=os.getpid(), ready=True).save()
    monkeypatch.setattr(place.os, "kill", lambda pid, number: pytest.fail("signalled a stranger"))
    assert "nothing to stop" in place.stop()


def test_damaged_state_is_no_server() -> None:
    with place.lock():
        place.STATE.write_text(json.dumps({"url": "x"}))
        assert place.live() is None


def test_server_that_does_not_answer_is_not_live() -> None:
    with place.lock():
        place.Serving(url="http://127.0.0.1:1/api", pid=os.getpid(), ready=True).save()
        assert place.live() is None
        assert place.recorded() is not None


def test_stop_without_anything_to_stop() -> None:
    assert "nothing to stop" in place.stop()
