"""Records and batches for tests of the state stores. Imports nothing slow: subprocesses use it."""

from __future__ import annotations

from dataclasses import replace

from sync_server.domain.leases import Instant, Lease
from sync_server.domain.runs import Change, Event, RunCreated, VersionCommitted, WorkerChanged
from sync_server.domain.versions import Pusher, Version
from sync_server.domain.workers import Role, State, Worker
from sync_server.storage.base import Batch

WALL = 1_700_000_000.0
NOW = Instant(1000.0, WALL + 1000)
WORKER = Worker("w", Role.EXPLORER, State.RUNNING, 1, Lease(10.0, 5.0), WALL, WALL)
VERSION = Version(
    7, "d", 100, 2, "r/7-0000000000000001.safetensors", b"\x00\xff" * 8, Pusher("t", 3), WALL, 2
)


def batch(
    *changes: Change,
    after: int = 0,
    current: int | None = None,
    superseded_max: int | None = None,
    run_id: str = "r",
) -> Batch:
    """`changes` as the events that follow revision `after`."""
    events = [
        Event(revision, WALL, change) for revision, change in enumerate(changes, start=after + 1)
    ]
    return Batch(run_id, events, current, superseded_max)


def step(index: int) -> Batch:
    """The change that makes revision `index`, and tells it apart from all others."""
    if index == 1:
        return batch(RunCreated())
    number = index // 2
    if index % 2:
        return batch(WorkerChanged(replace(WORKER, generation=index)), after=index - 1, current=1)
    version = replace(VERSION, number=number, blob_id=f"blob-{number}", revision=index)
    return batch(VersionCommitted(version), after=index - 1, current=number)
