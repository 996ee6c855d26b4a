"""Importing the project reaches for no network: no telemetry, no look for a newer version."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NO_NETWORK = """
import socket, sys
tried = []
def refuse(*words, **more):
    tried.append(words)
    raise OSError("no network in this test")
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
"""
EVERYTHING = """
import importlib, pkgutil, threading, {package}
for found in pkgutil.walk_packages({package}.__path__, "{package}."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
for thread in threading.enumerate():
    if thread is not threading.current_thread() and not thread.daemon:
        thread.join(5)
print(len(tried), tried[:3])
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", NO_NETWORK + code], cwd=folder, env=env, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_the_trap_works(tmp_path: Path) -> None:
    code = "try: socket.create_connection(('127.0.0.1', 1))\nexcept OSError: print(len(tried))"
    assert run(code, tmp_path).stdout.strip() == "1"


@pytest.mark.slow
@pytest.mark.parametrize("package", ["detector", "tasks", "flows"])
def test_import_calls_nobody_and_writes_nothing(package: str, tmp_path: Path) -> None:
    done = run(EVERYTHING.format(package=package), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 []"
    assert [path.name for path in tmp_path.iterdir()] == []
