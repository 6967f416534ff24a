"""How far explorers are behind: pure functions over what a watch shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sync_client import errors
from sync_client.types import (
    RunEvent,
    RunStatus,
    VersionInfo,
    WorkerRole,
    WorkerState,
    WorkerStatus,
)

_GONE = (WorkerState.STOPPED, WorkerState.LOST)


@dataclass
class RunView:
    """A run as its events tell it: the workers, and the version that explorers are given."""

    workers: dict[str, WorkerStatus] = field(default_factory=dict)
    latest: VersionInfo | None = None
    seen: bool = False

    def take(self, status: RunStatus) -> None:
        """Starts from the whole of a run."""
        self.workers = {worker.name: worker for worker in status.workers}
        self.latest = status.latest
        self.seen = True

    def apply(self, event: RunEvent) -> None:
        """Takes one event of `watch`, in order."""
        if event.snapshot is not None:
            self.take(event.snapshot)
        elif event.kind == "worker" and event.worker is not None:
            self.workers[event.name] = event.worker
        elif event.kind == "deregistered_worker":
            self.workers.pop(event.name, None)
        elif event.version is not None and (
            event.kind == "rolled_back" or event.version.revision == event.revision
        ):
            # A version event with an older revision only changed its pins.
            self.latest = event.version
        elif event.kind == "retired_weight_version" and self.latest is not None:
            gone = (event.name, event.detail.get("digest"))
            if gone == (str(self.latest.version), self.latest.digest):  # it was damaged
                self.latest = None

    def explorers(self) -> list[WorkerStatus]:
        """The live explorers, by name."""
        return [
            worker
            for _, worker in sorted(self.workers.items())
            if worker.role is WorkerRole.EXPLORER and worker.state not in _GONE
        ]

    def behind(self, version: int) -> list[str]:
        """The live explorers that have not reported `version` or a later one.

        What a rewind superseded does not count, however high its number.
        """
        return [
            worker.name
            for worker in self.explorers()
            if worker.version is None or worker.version < version or self._rewound(worker)
        ]

    def lag(self, name: str) -> float:
        """By how many training steps a worker is behind the newest version.

        0 while there is no version, infinite before its first report, and infinite for what a
        rewind superseded: that is not ahead but another history.
        """
        if self.latest is None:
            return 0
        worker = self.workers.get(name)
        if worker is None or worker.version is None or self._rewound(worker):
            return math.inf
        return self.latest.version - worker.version

    def _rewound(self, worker: WorkerStatus) -> bool:
        """Whether what a worker has is numbered above the newest version, or as it with other
        bytes. (The server says the same in the readiness check.)"""
        if self.latest is None or worker.version is None:
            return False
        if worker.version == self.latest.version:
            return bool(worker.digest) and worker.digest != self.latest.digest
        return worker.version > self.latest.version


def needed(explorers: int, fraction: float | None, count: int | None) -> int:
    """How many of `explorers` must have a version: all, a fraction of them, or a count.

    Raises InvalidArgument for both, a fraction outside of 0 to 1, or a negative count.
    """
    if fraction is not None and count is not None:
        raise errors.InvalidArgument("give fraction or count, not both")
    if count is not None:
        if count < 0:
            raise errors.InvalidArgument(f"count {count}: 0 or more is allowed")
        return count
    share = 1.0 if fraction is None else fraction
    if not 0 <= share <= 1:
        raise errors.InvalidArgument(f"fraction {share}: 0 to 1 is allowed")
    # 0.07 of 100 are 7, and not the 8 to which 7.000000000000001 would be rounded.
    return math.ceil(round(share * explorers, 9))
