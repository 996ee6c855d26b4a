from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import place, serve


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_SERVER_API_PORT", raising=False)
    return tmp_path


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else's server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def never_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.subprocess, "Popen", lambda *args, **named: pytest.fail("started a server"))


def port_of(url: str) -> int:
    return int(url.removesuffix("/api").rsplit(":", 1)[1])


def test_free_default_port_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "answers", lambda url: False)
    assert serve.choose_url(None) == "http://127.0.0.1:4200/api"
    assert serve.choose_url(4300) == "http://127.0.0.1:4300/api"


def test_taken_default_port_gives_a_free_one(
    taken: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(taken))
    url = serve.choose_url(None)
    assert port_of(url) != taken
    assert f"port {taken} is taken by another process: using port {port_of(url)}" in capsys.readouterr().out


def test_taken_port_that_was_asked_for_is_an_error(taken: int) -> None:
    with pytest.raises(SystemExit, match=f"port {taken} is taken by another process. Leave --port out"):
        serve.choose_url(taken)


def test_port_beside_an_address_is_said_to_be_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4999/api/")
    assert serve.choose_url(4300) == "http://127.0.0.1:4999/api"
    assert "--port 4300 is ignored: PREFECT_API_URL is set" in capsys.readouterr().err


@pytest.mark.usefixtures("never_starts")
def test_no_local_server_in_place_of_a_remote_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.invalid:4200/api")
    with pytest.raises(SystemExit, match="no Prefect server answers at http://prefect"):
        serve.main([])
    assert not place.STATE.exists()
    assert not place.held()


@pytest.mark.usefixtures("never_starts")
def test_server_at_the_given_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.invalid:4200/api")
    monkeypatch.setattr(place, "healthy", lambda url: True)
    assert serve.start_server("http://prefect.invalid:4200/api") is None


@pytest.mark.usefixtures("never_starts")
@pytest.mark.parametrize("state", [place.Serving(url="http://127.0.0.1:1/api", pid=77), None])
def test_second_serve_leaves_the_first_alone(
    state: place.Serving | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with place.lock():
        if state:
            state.save()
        assert serve.main([]) == 0
        assert place.recorded() == state
    said = capsys.readouterr().out
    assert "flows.serve already runs in this folder" in said
    assert ("process 77" in said) is (state is not None)
