"""What processes cost: CPU seconds and memory, read from /proc (zeros where there is none)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_SAMPLE_SECONDS = 0.01


def cpu_seconds(pid: int) -> float:
    """User and system time of the process since it started."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def anonymous_bytes(pid: int) -> int:
    """Its memory without mapped files (RssAnon)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def directory_bytes(directory: Path) -> int:
    """What the files below a directory hold of their file system, holes not counted."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += Path(folder, name).lstat().st_blocks * 512
            except FileNotFoundError:
                pass  # it was deleted between the two calls
    return total


def nothing_stored() -> int:
    """For a service that holds everything in its anonymous memory."""
    return 0


@dataclass(frozen=True)
class Service:
    """What stands between the trainer and the explorers; its processes count together."""

    address: str
    pids: tuple[int, ...]
    stored_bytes: Callable[[], int] = nothing_stored
    """What it holds in files or shared memory, beside its processes' own memory."""

    def cpu_seconds(self) -> float:
        """Of all its processes since they started."""
        return sum(map(cpu_seconds, self.pids))

    def anonymous_bytes(self) -> int:
        """Of all its processes now."""
        return sum(map(anonymous_bytes, self.pids))


class Watch:
    """Samples memory every 10 ms while its block runs.

    role: of the clients. clients: pid -> the anonymous bytes it had when the round began.
    """

    def __init__(self, service: Service, role: str, clients: Mapping[int, int]) -> None:
        self._service, self._role, self._round = service, role, clients
        self._begin = {pid: anonymous_bytes(pid) for pid in clients}
        self.peaks: dict[str, int] = {}
        """Bytes: "server", "ROLE_extra" and "ROLE_extra_of_round" of the client that took most
        beyond what it had when the block and when the round began, and "stored" in files."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        held = {pid: anonymous_bytes(pid) for pid in self._round}
        now = {
            "server": self._service.anonymous_bytes(),
            f"{self._role}_extra": max(held[pid] - self._begin[pid] for pid in held),
            f"{self._role}_extra_of_round": max(held[pid] - self._round[pid] for pid in held),
            "stored": self._service.stored_bytes(),
        }
        for what, size in now.items():
            self.peaks[what] = max(self.peaks.get(what, 0), size)
