from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import place, serve, server


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_SERVER_API_PORT", raising=False)
    return tmp_path


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else's server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def never_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.subprocess, "Popen", lambda *args, **named: pytest.fail("started a server"))


def port_of(url: str) -> int:
    return int(url.removesuffix("/api").rsplit(":", 1)[1])


def test_free_default_port_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "answers", lambda url: False)
    assert server.choose_url(None) == "http://127.0.0.1:4200/api"
    assert server.choose_url(4300) == "http://127.0.0.1:4300/api"


def test_taken_default_port_gives_a_free_one(
    taken: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(taken))
    url = server.choose_url(None)
    assert port_of(url) != taken
    assert f"port {taken} is taken by another process: using port {port_of(url)}" in capsys.readouterr().out


def test_taken_port_that_was_asked_for_is_an_error(taken: int) -> None:
    with pytest.raises(SystemExit, match=f"port {taken} is taken by another process. Leave --port out"):
        server.choose_url(taken)


def test_port_beside_an_address_is_said_to_be_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4999/api/")
    assert server.choose_url(4300) == "http://127.0.0.1:4999/api"
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
    assert server.start_server("http://prefect.invalid:4200/api") is None


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


@pytest.mark.usefixtures("never_starts")
@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "myhost.example"])
def test_open_server_without_a_login_is_refused(
    host: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(place.SERVER_LOGIN, raising=False)
    with pytest.raises(SystemExit, match=r"--host .* no login.*PREFECT_SERVER_API_AUTH_STRING"):
        serve.main(["--host", host])
    assert not place.LOCK.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_needs_no_login(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(place.SERVER_LOGIN, raising=False)
    server.check_host(host)


def test_with_a_login_the_server_is_opened_and_we_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(place.SERVER_LOGIN, "team:password")
    monkeypatch.setenv(place.CLIENT_LOGIN, "")
    monkeypatch.delenv(place.CLIENT_LOGIN)
    asked: list[object] = []
    monkeypatch.setattr(serve, "serve", lambda *words, **more: asked.append(words) or 0)
    assert serve.main(["--host", "0.0.0.0"]) == 0
    assert asked == [(None, 1, "0.0.0.0")]
    assert place.headers() == {"Authorization": "Basic dGVhbTpwYXNzd29yZA=="}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:4444/api"),
        ("10.1.2.3", "http://10.1.2.3:4444/api"),
        ("::1", "http://[::1]:4444/api"),
    ],
)
def test_clients_are_told_an_address_that_reaches_the_server(
    host: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "answers", lambda url: False)
    assert server.choose_url(4444, host) == url


@pytest.mark.usefixtures("never_starts")
def test_messages_hold_no_login(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@prefect.invalid:4200/api")
    with pytest.raises(SystemExit) as error:
        serve.main(["--port", "4300"])
    shown = str(error.value) + "".join(capsys.readouterr())
    assert "http://prefect.invalid:4200/api" in shown
    assert "secret" not in shown
