"""How far an explorer is behind (pure)."""

from __future__ import annotations

from sync_server.domain.leases import Instant
from sync_server.domain.runs import Run
from sync_server.domain.waits import Held, is_rewound
from sync_server.domain.workers import GONE


def serves(run: Run, worker_id: str, version: int | None, now: Instant) -> bool:
    """Whether a worker is alive and has applied `version` or a later one (None: any at all).

    What was superseded since does not count, however high its number. Raises WorkerNotFound.
    """
    worker = run.workers.get(worker_id)
    if worker.state in GONE or worker.lease.expired(now):
        return False
    if version is None:
        return True
    applied = worker.applied
    if applied is None or applied.version < version:
        return False
    return not is_rewound(run.versions, Held(applied.version, applied.digest))
