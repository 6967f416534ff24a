"""The real server as a process of its own, and what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHM = Path("/dev/shm")
_START_SECONDS = 30.0
_SAMPLE_SECONDS = 0.02


class ServerProcess:
    """A running server; made by `running_server`."""

    def __init__(self, address: str, pid: int) -> None:
        self.address = address
        """host:port of gRPC."""
        self._proc = Path(f"/proc/{pid}")

    def cpu_seconds(self) -> float:
        """User and system time since it started. 0.0 where there is no /proc."""
        try:
            fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def anonymous_bytes(self) -> int:
        """Its memory without mapped blobs (RssAnon). 0 where there is no /proc."""
        try:
            status = (self._proc / "status").read_text()
        except OSError:
            return 0
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
        return 0

    @contextmanager
    def watching_memory(self) -> Iterator[list[int]]:
        """Samples `anonymous_bytes` while the block runs; the one item of the list is the peak."""
        peak = [self.anonymous_bytes()]
        done = threading.Event()

        def sample() -> None:
            while not done.wait(_SAMPLE_SECONDS):
                peak[0] = max(peak[0], self.anonymous_bytes())

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield peak
        finally:
            done.set()
            thread.join()


def blob_directory(size_bytes: int) -> str | None:
    """Where blobs go: /dev/shm if three versions fit there, else None (the temporary directory)."""
    try:
        room = os.statvfs(_SHM)
    except OSError:
        return None
    return str(_SHM) if room.f_bavail * room.f_frsize > 3.5 * size_bytes else None


@contextmanager
def running_server(
    blob_parent: str | None,
    keep_versions: int = 2,
    state_store: str = "sqlite",
    *,
    shared_memory: bool = False,
    http: bool = False,
) -> Iterator[ServerProcess]:
    """Starts `python -m sync_server serve` with directories of its own; ends it by SIGTERM.

    Without `shared_memory` and `http` every byte goes over gRPC. Raises RuntimeError where it does
    not start or does not end well.
    """
    with (
        tempfile.TemporaryDirectory(prefix="weightsync-bench-") as data,
        tempfile.TemporaryDirectory(prefix="weightsync-bench-", dir=blob_parent) as blobs,
    ):
        ready = Path(data) / "ready.json"
        command = [sys.executable, "-m", "sync_server", "serve", "--listen", "127.0.0.1:0"]
        command += ["--data-dir", data, "--blob-dir", blobs, "--ready-file", str(ready)]
        command += ["--keep-versions", str(keep_versions), "--state-store", state_store]
        environment = {**os.environ, "WEIGHTSYNC_SHARED_MEMORY": str(shared_memory).lower()}
        environment["WEIGHTSYNC_HTTP_LISTEN"] = "127.0.0.1:0" if http else "off"
        process = subprocess.Popen([*command, "--log-level", "warning"], env=environment)
        try:
            until = time.monotonic() + _START_SECONDS
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the server did not start")
                time.sleep(0.01)
            yield ServerProcess(json.loads(ready.read_text())["grpc"], process.pid)
        finally:
            process.terminate()
            code = process.wait(_START_SECONDS)
        if code:
            raise RuntimeError(f"the server ended with exit code {code}")
