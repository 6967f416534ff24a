"""Real server processes for tests: started on port 0, stopped by signals, restartable in place."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_START_SECONDS = 30.0  # a loaded machine with two cores; alone it takes half a second
_STOP_SECONDS = 30.0
_LOOK_SECONDS = 0.005


class ServerProcess:
    """`weightsync serve` in a process of its own. Made by `running_server`.

    `address` ("host:port"), `pid`, `data_dir`, `blob_dir`; `ready` is what the ready file says.
    """

    def __init__(
        self,
        directory: Path,
        *,
        data_dir: Path | None,
        blob_dir: Path | None,
        options: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        self.data_dir = data_dir or directory / "data"
        self.blob_dir = blob_dir or directory / "blobs"
        self.address = "127.0.0.1:0"
        self.ready: dict[str, object] = {}
        self._options = list(options)
        self._ready_file = directory / "ready.json"
        self._log_file = directory / "server.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTSYNC_")}
        # Most tests are about gRPC, and all are on one host.
        grpc_alone = {"WEIGHTSYNC_SHARED_MEMORY": "false", "WEIGHTSYNC_HTTP_LISTEN": "off"}
        self._environment = {**clean, **grpc_alone, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What all starts wrote to standard output and standard error."""
        return self._log_file.read_text(encoding="utf-8", errors="replace")

    def command(self) -> list[str]:
        """The command line that starts it."""
        return [
            *(sys.executable, "-m", "sync_server", "serve"),
            *("--listen", self.address),
            *("--data-dir", str(self.data_dir), "--blob-dir", str(self.blob_dir)),
            *("--ready-file", str(self._ready_file)),
            *self._options,
        ]

    def start(self) -> None:
        """Starts it and waits until it serves; again on the same port, where it had one."""
        assert not self.running, "it runs already"
        self._ready_file.unlink(missing_ok=True)
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env=self._environment
            )
        end = time.monotonic() + _START_SECONDS
        while not self._ready_file.exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(_LOOK_SECONDS)
                raise AssertionError(f"the server ended with {code}:\n{self.log}")
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"the server is not ready after a while:\n{self.log}")
        self.ready = json.loads(self._ready_file.read_text())
        assert self.ready["pid"] == self.pid
        self.address = str(self.ready["grpc"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Asks it to end and returns its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not stop:\n{self.log}") from None

    def kill(self) -> None:
        """SIGKILL: as a crash."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Starts it again on the same port and directories; kills it first where it runs."""
        if self.running:
            self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def blobs(self) -> dict[str, tuple[int, int]]:
        """What lies in the blob directory: file -> (inode, size), partial uploads included."""
        found = {}
        for path in sorted(self.blob_dir.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # one that goes while we look
                if path.is_file() and path.name not in (".lock", ".owner"):
                    status = path.stat()
                    found[str(path.relative_to(self.blob_dir))] = (status.st_ino, status.st_size)
        return found

    def assert_no_faults(self) -> None:
        """Nothing that it logged is a fault of its own."""
        log = self.log
        assert "Traceback" not in log, log
        assert not re.search(r"\bfault\b", log), log


@contextlib.contextmanager
def running_server(
    directory: Path | None = None,
    *,
    data_dir: Path | None = None,
    blob_dir: Path | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    faults_allowed: bool = False,
) -> Iterator[ServerProcess]:
    """A server that serves while the block runs.

    `directory` holds its log, its ready file and, unless they are given, its data and blob
    directories; None makes one (in memory where the machine has room) and removes it. `options`
    go to `weightsync serve` as they are. At the end of the block a server that still runs is
    stopped with SIGTERM and must exit with 0, and its log must show no fault unless
    `faults_allowed`.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = stack.enter_context(fast_directory())
        directory.mkdir(parents=True, exist_ok=True)
        server = ServerProcess(
            directory,
            data_dir=data_dir,
            blob_dir=blob_dir,
            options=options,
            environment=environment or {},
        )
        server.start()
        try:
            yield server
        except BaseException:
            if server.running:
                server.kill()
            raise
        if server.running:
            code = server.stop()
            assert code == 0, f"exit code {code}:\n{server.log}"
        if not faults_allowed:
            server.assert_no_faults()


@contextlib.contextmanager
def fast_directory(needed_bytes: int = 256 << 20) -> Iterator[Path]:
    """A directory that is removed at the end; on a tmpfs where there is room for twice as much."""
    parent = Path("/dev/shm")
    roomy = parent.is_dir() and shutil.disk_usage(parent).free >= 2 * needed_bytes
    with tempfile.TemporaryDirectory(
        prefix="weightsync-test-", dir=parent if roomy else None, ignore_cleanup_errors=True
    ) as name:
        yield Path(name)
