"""A worker in a process of its own, to be killed, stopped, or cut off.

It registers, says so, and then does what it is told on standard input, a line at a time; every
answer is one line on standard output.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_SCRIPT = """
import sys
import torch
from sync_client import SyncClient, SyncError
server, role, name, lease = sys.argv[1:5]
client = SyncClient(server, retry_for=60)
worker = client.register(role, name, lease=float(lease))
print("registered", worker.generation, flush=True)
for line in sys.stdin:
    try:
        info = worker.push({"w": torch.tensor([float(line)])}, version=int(line))
        print("pushed", info.version, flush=True)
    except SyncError as error:
        print(type(error).__name__, flush=True)
"""


class WorkerProcess:
    """A running worker; made by `running_worker`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def answer(self) -> str:
        """Its next line; blocks until there is one (the test's own time-out ends that)."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def push(self, version: int) -> None:
        """Tells it to push; see `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{version}\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        """SIGKILL, SIGSTOP, SIGCONT."""
        os.kill(self._process.pid, number)


@contextmanager
def running_worker(
    server: str, role: str, name: str, lease: float, *, prefix: Sequence[str] = ()
) -> Iterator[WorkerProcess]:
    """A worker that is registered while the block runs; killed at its end. `prefix` goes before
    the command, such as `ip netns exec NAME`."""
    command = [*prefix, sys.executable, "-c", _SCRIPT, server, role, name, str(lease)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = WorkerProcess(process)
    try:
        assert worker.answer().startswith("registered")
        yield worker
    finally:
        for number in (signal.SIGKILL, signal.SIGCONT):
            if process.poll() is None:
                worker.signal(number)
        process.communicate()
