"""Cityscapes through cityscapesscripts' downloader; a server on this machine plays the service."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cityscapesscripts.download import downloader

from detector.data.download.cityscapes import _patient_adapter, download_package
from detector.data.download.sources import Archive
from detector.errors import DatasetError
from detector.fetch import Patience
from tests.unit.prepare.loopback import Behaviour, serving

BODY = random.Random(3).randbytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()
NAME = "gtFine_trainvaltest.zip"
ARCHIVE = Archive("gtFine", package=NAME, size=len(BODY), checksum=f"md5:{MD5}")
QUICK = Patience(attempts=3, wait_s=0.001, timeout_s=2)
LIST = json.dumps([{"name": NAME, "packageID": 1, "size": "241MB", "thirdparty": "0"}]).encode()


class ToLoopback(requests.adapters.HTTPAdapter):
    """Sends what is meant for the service to the server of the test."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        request.url = request.url.replace("https://www.cityscapes-dataset.com", self.url)
        return super().send(request, *args, **options)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Behaviour]:
    """The service with one package; whoever comes is logged in."""
    files = {"downloads/?list": LIST, "md5-sum/?packageID=1": f"{MD5}  {NAME}".encode()}
    behaviour = Behaviour({**files, "file-handling/?packageID=1": BODY}, tag="")
    with serving(behaviour) as url:
        monkeypatch.setattr(
            "detector.data.download.cityscapes._patient_adapter", lambda _, timeout_s: ToLoopback(url)
        )
        monkeypatch.setattr(downloader, "login", requests.Session)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        yield behaviour


def get(folder: Path, archive: Archive = ARCHIVE) -> Path:
    return download_package(archive, folder / NAME, patience=QUICK, by_hand="Register.")


def ranges(behaviour: Behaviour) -> list[str | None]:
    return [wanted for path, wanted in behaviour.seen if path.startswith("file")]


def test_package_comes_whole(tmp_path: Path, service: Behaviour, capsys: pytest.CaptureFixture[str]) -> None:
    assert get(tmp_path).read_bytes() == BODY
    assert capsys.readouterr().out == ""


def cut_at(place: int, service: Behaviour) -> None:
    """End the transfer of the package, not of the lists before it, at a byte of all that is sent."""
    before = len(LIST) + len(service.files["md5-sum/?packageID=1"])

    def watch(sent: int) -> None:
        if sent - before >= place:
            service.watch = None
            raise ConnectionError

    service.watch = watch


def test_cut_connection_is_resumed(tmp_path: Path, service: Behaviour) -> None:
    cut_at(100_000, service)
    assert get(tmp_path).read_bytes() == BODY
    first, second = ranges(service)
    assert first is None
    assert second is not None
    assert int(second.removeprefix("bytes=").rstrip("-")) > 0


def test_later_call_goes_on(tmp_path: Path, service: Behaviour) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / NAME).write_bytes(BODY[:200_000])
    assert get(tmp_path).read_bytes() == BODY
    assert ranges(service) == ["bytes=200000-"]


def test_whole_package_is_not_asked_for_again(tmp_path: Path, service: Behaviour) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / NAME).write_bytes(BODY)
    assert get(tmp_path).read_bytes() == BODY
    assert service.seen == []


@pytest.mark.parametrize("flips", [1, 5], ids=["mended", "given-up"])
def test_flipped_byte_is_found(tmp_path: Path, service: Behaviour, flips: int) -> None:
    # The lists before the package take a flip each, which is out of their range.
    service.flips = [250_000] * 3 * flips
    expectation = pytest.raises(DatasetError, match="MD5 sum") if flips > 1 else contextlib.nullcontext()
    with expectation:
        assert get(tmp_path).read_bytes() == BODY
    assert (tmp_path / NAME).exists() == (flips == 1)


def test_server_that_stays_away_is_given_up(tmp_path: Path, service: Behaviour) -> None:
    service.answers = [503] * 9
    with pytest.raises(DatasetError, match=r"503.*expected the whole package.*what came is kept"):
        get(tmp_path)
    assert len(service.seen) == 3


def test_package_without_access(tmp_path: Path, service: Behaviour) -> None:
    service.files["downloads/?list"] = b"[]"
    with pytest.raises(DatasetError, match=r"gtFine_trainvaltest\.zip is not offered to this account"):
        get(tmp_path)


def refuse(error: Exception) -> Callable[[], None]:
    def login() -> None:
        raise error

    return login


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            Exception("Bad credentials."),
            r"login was refused \(Bad credentials\.\)\. Try again with the right",
        ),
        (requests.ConnectionError("no route"), r"the login failed \(no route\)\. Try again later\. Register"),
        (EOFError(), "found no usable login"),
        (json.JSONDecodeError("x", "y", 0), "found no usable login"),
    ],
    ids=["refused", "no-network", "no-answer", "broken-file"],
)
def test_login_that_fails(
    tmp_path: Path, service: Behaviour, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    monkeypatch.setattr(downloader, "login", refuse(error))
    with pytest.raises(DatasetError, match=words):
        get(tmp_path)


def test_login_is_asked_for_and_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The downloader's own login, with answers from a terminal and 'no' to its offer to keep them."""
    answers, sent = iter(["someone", "n"]), []
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(downloader, "input", lambda _: next(answers))
    monkeypatch.setattr(downloader.getpass, "getpass", lambda _: "secret-word")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with serving(Behaviour({"login": b"form"})) as url:

        class Session(requests.Session):
            def request(self, method: str, address: Any, **options: Any) -> Any:  # type: ignore[override]
                sent.append(options.get("data"))
                return super().request("GET", f"{url}/login", allow_redirects=False)

        monkeypatch.setattr(requests, "Session", Session)
        with pytest.raises(DatasetError, match=r"refused \(Bad credentials\.\)"):
            get(tmp_path)
    assert sent[-1]["password"] == "secret-word"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"secret-word" in path.read_bytes() for path in written)
    assert next(answers, "all asked") == "all asked"


def test_silent_service_is_not_waited_for_forever() -> None:
    silence = threading.Event()
    behaviour = Behaviour({"downloads/?list": LIST}, watch=lambda _: silence.wait(5))
    with serving(behaviour) as url, requests.Session() as session:
        session.mount("http://", _patient_adapter(downloader, 0.1))
        with pytest.raises(requests.ConnectionError, match="timed out"):
            session.get(f"{url}/downloads/?list")
        silence.set()
