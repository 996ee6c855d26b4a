"""Cityscapes by its own download service, which wants an account; cityscapesscripts does the talking.

The login is asked for, or read from where ``csDownload`` keeps it; nothing here sees or stores it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detector.data.download.sources import Archive
from detector.errors import DatasetError
from detector.fetch import Patience
from detector.fetch.checks import length, require_space, wrong

SITE = "https://www.cityscapes-dataset.com"


def download_package(archive: Archive, target: Path, *, patience: Patience, by_hand: str) -> Path:
    """Download a package, continuing an earlier try; the service's md5 is checked.

    Args:
        archive: with the package's name.
        target: file to write; until it is whole it lies as ``package/<name>`` beside it.
        patience: tries in a row that bring no new byte, the pause between and the silence of a server.
        by_hand: what the user can do without an account.

    Returns:
        ``target``.

    Raises:
        DatasetError: no login, a wrong one, no right to the package, or given up.
        MachineError: the disk is too small.
    """
    if target.is_file() and not wrong(target, archive.size, archive.checksum):
        return target
    from cityscapesscripts.download import downloader

    folder = target.parent / "package"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / archive.package
    if archive.size is not None:
        require_space(folder, archive.size - length(part), archive.package)
    # The downloader talks on standard output, which is a command's result here.
    with contextlib.redirect_stdout(sys.stderr), _login(downloader, patience, by_hand) as session:
        _transfer(downloader, session, archive, part, patience)
    part.replace(target)
    return target


@contextlib.contextmanager
def _login(downloader: Any, patience: Patience, by_hand: str) -> Iterator[Any]:
    data_dir = downloader.appdirs.user_data_dir("cityscapesscripts", "cityscapes")
    kept = Path(data_dir) / "credentials.json"
    if not kept.is_file() and not sys.stdin.isatty():
        raise DatasetError(
            f"Cityscapes: found no login at {kept} and no terminal to ask for one, expected either. Type "
            f"`detector download cityscapes` in a terminal, or place the data by hand. {by_hand}"
        )
    try:
        session = downloader.login()
    except downloader.requests.RequestException as error:
        raise DatasetError(f"{SITE}: the login failed ({error}). Try again later. {by_hand}") from error
    except (EOFError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{kept}: found no usable login ({error!r}), expected a user name and a password. Remove the "
            "file and try again in a terminal."
        ) from error
    except Exception as error:  # the downloader knows no other kind
        raise DatasetError(
            f"{SITE}: the login was refused ({error}). Try again with the right name and password, or "
            f"register at {SITE}/register."
        ) from error
    with session:
        session.mount("https://", _patient_adapter(downloader, patience.timeout_s))
        yield session


def _patient_adapter(downloader: Any, timeout_s: float) -> Any:
    """An adapter for its requests that gives up on a silent server, for which the downloader would wait."""

    class Adapter(downloader.requests.adapters.HTTPAdapter):  # type: ignore[misc]
        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            options["timeout"] = options.get("timeout") or timeout_s
            return super().send(request, *args, **options)

    return Adapter()


def _transfer(downloader: Any, session: Any, archive: Archive, part: Path, patience: Patience) -> None:
    """Let the downloader work until the package is whole; its md5 comes from the service."""
    failures, spoilt, fault = 0, False, ""
    while failures < patience.attempts:
        # Whole already: the downloader would ask for what comes after the end, and fail on the answer.
        if part.is_file() and archive.size is not None and not wrong(part, archive.size, archive.checksum):
            return
        before = length(part)
        try:
            downloader.download_packages(
                session=session,
                package_names=[archive.package],
                destination_path=os.fspath(part.parent),
                resume=part.is_file(),
            )
            if archive.size is None or length(part) == archive.size:
                return
            fault = f"came with {length(part)} bytes"
        except (downloader.requests.RequestException, OSError) as error:
            fault = f"the transfer failed ({error})"
        except Exception as error:  # the downloader knows no other kind
            fault = str(error)
            if "do not exist or you don't have access" in fault:
                raise DatasetError(
                    f"{SITE}: {archive.package} is not offered to this account ({fault}), expected access. "
                    "Ask for it there."
                ) from error
            if "MD5" in fault:
                part.unlink()
                if spoilt:
                    break
                spoilt, failures = True, 0
                continue
        failures = 1 if length(part) > before else failures + 1
        if failures < patience.attempts:
            time.sleep(min(patience.wait_s * 2 ** (failures - 1), 60.0))
    raise DatasetError(
        f"{SITE}: {archive.package}: {fault}; expected the whole package. Try again later (what came is "
        "kept), or fetch it with `csDownload` and name its folder with --mirror."
    )
