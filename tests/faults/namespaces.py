"""Two hosts on one machine: network namespaces with a wire between them, made and removed here."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Hosts:
    """`server` and `client` are namespaces; `address` is the server's on the wire."""

    server: str
    client: str
    address: str

    def on(self, host: str) -> list[str]:
        """What goes before a command to run it there."""
        return ["ip", "netns", "exec", host]

    def wire(self, state: str) -> None:
        """Cuts ("down") or mends ("up") the wire: packets vanish, nobody is told."""
        _run("ip", "-n", self.server, "link", "set", "wire", state)


def missing() -> str:
    """Why there can be no namespaces here, or ""."""
    if shutil.which("ip") is None:
        return "needs `ip` (Debian: apt-get install iproute2)"
    probe = f"ws-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "may not make network namespaces (needs root)"
    _run("ip", "netns", "delete", probe)
    return ""


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Two namespaces, 10.93.0.1 (server) and 10.93.0.2 (client), that reach only each other."""
    hosts = Hosts(f"ws-server-{os.getpid()}", f"ws-client-{os.getpid()}", "10.93.0.1")
    try:
        for host in (hosts.server, hosts.client):
            _run("ip", "netns", "add", host)
            _run("ip", "-n", host, "link", "set", "lo", "up")
        _run(
            *("ip", "-n", hosts.server, "link", "add", "wire", "type", "veth"),
            *("peer", "name", "wire", "netns", hosts.client),
        )
        for host, address in ((hosts.server, "10.93.0.1/24"), (hosts.client, "10.93.0.2/24")):
            _run("ip", "-n", host, "address", "add", address, "dev", "wire")
            _run("ip", "-n", host, "link", "set", "wire", "up")
        yield hosts
    finally:
        for host in (hosts.server, hosts.client):
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
