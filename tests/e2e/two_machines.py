"""Two machines on one: network namespaces with a cable (a veth pair) between them, which can be cut."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class NamespacesUnavailable(Exception):
    """Network namespaces are not allowed here; says why."""


@dataclass(frozen=True)
class Machines:
    """Both machines.

    Attributes:
        names: of their namespaces.
        addresses: of their ends of the cable.
    """

    names: tuple[str, str]
    addresses: tuple[str, str]

    def prefix(self, number: int) -> list[str]:
        """What is put before a command that shall run on a machine."""
        return ["ip", "netns", "exec", self.names[number]]

    def cut(self) -> None:
        """Cut the cable: nothing arrives any more, and nobody is told."""
        _ip("-n", self.names[1], "link", "set", f"v{self.names[1]}", "down")


@contextmanager
def two_machines() -> Iterator[Machines]:
    """Two namespaces, gone afterwards.

    Raises:
        NamespacesUnavailable: no ``ip``, no rights.
    """
    if shutil.which("ip") is None:
        raise NamespacesUnavailable("found no program ip (Debian: iproute2)")
    stem = uuid.uuid4().hex[:6]
    machines = Machines((f"d{stem}a", f"d{stem}b"), ("10.213.7.1", "10.213.7.2"))
    first, second = machines.names
    try:
        for name in machines.names:
            _ip("netns", "add", name)
        _ip("link", "add", f"v{first}", "netns", first, "type", "veth", "peer", f"v{second}", "netns", second)
        for name, address in zip(machines.names, machines.addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", f"v{name}")
            _ip("-n", name, "link", "set", f"v{name}", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        _run([*machines.prefix(0), "true"])
        yield machines
    finally:
        for name in machines.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NamespacesUnavailable(f"{' '.join(command)}: {done.stderr.strip()}")
