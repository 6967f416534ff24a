"""The real server as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.processes import Service, directory_bytes

_SHM = Path("/dev/shm")
_START_SECONDS = 30.0


def blob_directory(size_bytes: int, versions: int = 3) -> str | None:
    """Where blobs go: /dev/shm if so many fit there, else None (the temporary directory)."""
    try:
        room = os.statvfs(_SHM)
    except OSError:
        return None
    return str(_SHM) if room.f_bavail * room.f_frsize > (versions + 0.5) * size_bytes else None


@contextmanager
def running_server(
    blob_parent: str | None,
    keep_versions: int = 2,
    state_store: str = "sqlite",
    *,
    shared_memory: bool = False,
    http: bool = False,
) -> Iterator[Service]:
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
            address = json.loads(ready.read_text())["grpc"]
            yield Service(address, (process.pid,), partial(directory_bytes, Path(blobs)))
        finally:
            process.terminate()
            code = process.wait(_START_SECONDS)
        if code:
            raise RuntimeError(f"the server ended with exit code {code}")
