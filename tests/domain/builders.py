"""Moments, records, and a driver for tests of the domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sync_server.domain import commands
from sync_server.domain.leases import Instant
from sync_server.domain.runs import Change, Event, Run
from sync_server.domain.versions import Pin, Pusher, Version
from sync_server.domain.workers import Role, Worker, WorkerTable

R = TypeVar("R")

TRAINER = Pusher("t", 1)

WALL = 1_700_000_000.0
"""Wall time at monotonic second 0, so that the two clocks can't be mistaken for each other."""


def at(seconds: float) -> Instant:
    """The moment `seconds` after the beginning, on both clocks."""
    return Instant(monotonic=seconds, wall=WALL + seconds)


def version(
    number: int,
    digest: str = "a",
    *,
    pusher: Pusher | None = None,
    revision: int = 0,
    pins: Sequence[Pin] = (),
    blob_id: str | None = None,
) -> Version:
    """A complete version; by default each (number, digest) has a blob of its own."""
    return Version(
        number=number,
        digest=digest,
        size_bytes=100,
        tensor_count=1,
        blob_id=f"run/{number}-{digest}" if blob_id is None else blob_id,
        tensor_digests=b"\x00\xff" * 4,
        pusher=Pusher() if pusher is None else pusher,
        committed_at=0.0,
        revision=revision,
        pins=tuple(pins),
    )


def drive(
    run: Run, now: Instant, command: Callable[..., tuple[Sequence[Change], R]], **asked: object
) -> tuple[list[Event], R]:
    """Decides and applies, as the coordinator does: the events, and the command's answer."""
    changes, answer = command(run, now, **asked)
    events = run.number(changes, now)
    for event in events:
        run.apply(event)
    return events, answer


def add(
    table: WorkerTable,
    name: str,
    role: Role = Role.EXPLORER,
    *,
    now: Instant | None = None,
    lease: float = 10.0,
    resume: int | None = None,
) -> Worker:
    """Registers and stores."""
    worker = table.register(name, role, lease, now or at(0), resume)
    table.put(worker)
    return worker


def snapshot(table: WorkerTable) -> tuple[list[Worker], dict[str, int]]:
    """Everything that a refused decision may not have touched."""
    return table.all(), table.generations()


def join(
    run: Run,
    name: str,
    role: Role = Role.EXPLORER,
    *,
    now: Instant | None = None,
    resume: int | None = None,
) -> Worker:
    """Registers a worker for ten seconds."""
    _, worker = drive(
        run,
        now or at(0),
        commands.register,
        worker_id=name,
        role=role,
        lease_seconds=10.0,
        resume_generation=resume,
    )
    return worker


def push(run: Run, item: Version, *, now: float = 1.0, keep: int = 10) -> tuple[Version, bool]:
    """Commits a version."""
    _, answer = drive(run, at(now), commands.commit, version=item, keep=keep)
    return answer


def run_with(*numbers: int, keep: int = 10) -> Run:
    """A run whose trainer "t" pushed these."""
    run = Run("r", created_at=WALL)
    join(run, "t", Role.TRAINER)
    for number in numbers:
        push(run, version(number, pusher=TRAINER), keep=keep)
    return run


def kinds(events: list[Event]) -> list[type]:
    """Of which kind the changes are."""
    return [type(event.change) for event in events]
