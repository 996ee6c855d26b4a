"""Prefect plugin: makes `prefect deployment run train-eval --param config=mask_rcnn` work as written.

Prefect loads it in `import prefect`, before its command line reads its arguments (entry point group
``prefect.plugins``, enabled in pyproject.toml). It writes ``train-eval`` as ``train-eval/train-eval``, points
Prefect at this folder's server, and starts `python -m flows.serve` in the background when a run is asked for
and nothing serves.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from prefect.plugins import HookContext, SetupResult, register_hook

from flows import place
from flows.place import CLIENT_LOGIN, SERVER_LOGIN
from tasks.masking import address

COMMANDS = (
    "prefect",
    "prefect.exe",
    "-m",
    "__main__.py",
)  # argv[0] of the command line; '-m' during `python -m prefect`
VERBS = ("run", "inspect", "delete", "pause", "resume")
FLAGS = ("--watch", "--no-watch", "--prompt", "--no-prompt", "--all", "--no-all")  # these take no value
HELP = ("--help", "-h")
PATIENCE = 170.0  # seconds; below plugins.setup_timeout_seconds of pyproject.toml


def expand(argv: list[str]) -> tuple[str, str] | None:
    """Complete the name in `deployment <verb> NAME` to NAME/NAME, in place, if NAME is one of ours.

    Returns:
        The verb and the completed name, or None when the command line is another one or asks for help.
    """
    start = 1  # of the command, after options of `prefect` itself
    while start < len(argv) and argv[start].startswith("-"):
        start += 2 if takes_value(argv[start]) else 1
    command = argv[start : start + 2]
    if len(command) < 2 or command[0] not in ("deployment", "deployments") or command[1] not in VERBS:
        return None
    if any(word in HELP for word in argv):
        return None
    for index in range(start + 2, len(argv)):
        before, name = argv[index - 1], argv[index]
        if (takes_value(before) and before != "--name") or name.split("/")[0] not in place.DEPLOYMENTS:
            continue
        if "/" not in name:
            argv[index] = f"{name}/{name}"
        return command[1], argv[index]
    return None


def takes_value(word: str) -> bool:
    """Whether ``word`` is an option whose value is the next word."""
    return word.startswith("-") and "=" not in word and word not in FLAGS


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Prefect's hook: complete our names; find or start the server of this folder."""
    asked = expand(sys.argv) if Path(sys.argv[0]).name in COMMANDS else None
    wanted = asked is not None and asked[0] == "run"
    given = ctx.api_url or os.environ.get("PREFECT_API_URL")
    if given:
        if asked is not None and wanted:
            hint(given.rstrip("/"), asked[1])
        return None
    served = asked is not None and asked[1].split("/")[0] == asked[1].split("/")[1]  # not by a worker
    found = wait_until_ready() if wanted and served else place.live()
    login = {} if os.environ.get(CLIENT_LOGIN) else {CLIENT_LOGIN: os.environ.get(SERVER_LOGIN, "")}
    env = {name: value for name, value in login.items() if value}  # a temporary server asks for it too
    if found is None:
        return SetupResult(env=env) if env else None
    return SetupResult(env={"PREFECT_API_URL": found.url, **env}, note=f"using the server at {found.url}")


def hint(url: str, name: str) -> None:
    """Say what is missing when the user's own server has nobody who would run the deployment."""
    with suppress(OSError):
        if place.post(f"{url}/deployments/count", {})[0] in (401, 403):
            return  # the login is in a profile of Prefect's: who serves is not ours to see
    if place.serves(url, [name]):
        return
    flow, kind = name.split("/")
    start = "python -m flows.serve" if flow == kind else "prefect worker start --pool NAME"
    print(
        f"PREFECT_API_URL is {address(url)}, and nothing serves {name} there: type `{start}` in "
        "another shell with the same PREFECT_API_URL, or unset it to use this folder's own server",
        file=sys.stderr,
    )


def start_in_background() -> subprocess.Popen[bytes]:
    """Start `python -m flows.serve` detached."""
    print(
        "nothing serves the deployments here: starting `python -m flows.serve` in the background "
        f"(log: {place.SERVE_LOG}; stop it with `python -m flows.serve --stop`)",
        file=sys.stderr,
    )
    place.HOME.mkdir(exist_ok=True)
    with place.SERVE_LOG.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.serve"], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def wait_until_ready() -> place.Serving:
    """Wait for this folder's `flows.serve` to have its deployments polled; start it if there is none.

    Raises:
        SystemExit: it ended, or is not ready in time.
    """
    process = None
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = place.live()
        if found and found.ready:
            return found
        if process is None and not place.held():
            process = start_in_background()
        code = process.poll() if process is not None else None
        if code == 0:
            process = None  # another one was faster: wait for that
        elif code is not None:
            raise SystemExit(f"`python -m flows.serve` ended with code {code}; {place.SERVE_LOG} says why")
        time.sleep(0.2)
    raise SystemExit(
        f"`python -m flows.serve` is not ready after {PATIENCE:.0f} s; {place.SERVE_LOG} says why"
    )
