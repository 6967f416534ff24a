"""Lock, decide, persist, apply, notify: the only way in which a run changes.

A mutation is a pure function from a run and a moment to changes. `transact` calls it under the
run's lock, stores the changes, makes them true, and wakes who waits for them. Nothing is visible
before it is stored, and everything is visible in revision order.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from sync_server.clock import ServerClock
from sync_server.domain.errors import RunNotFound, StorageFull
from sync_server.domain.leases import Instant
from sync_server.domain.runs import (
    Change,
    Event,
    NothingNew,
    Run,
    RunCreated,
    VersionCommitted,
    VersionRemoved,
    WorkerChanged,
    WorkerRemoved,
)
from sync_server.domain.waits import Held, Outcome, wait_outcome
from sync_server.domain.workers import Worker
from sync_server.journal import Journal
from sync_server.storage.base import Batch, StorageError
from sync_server.waiting import Parked, WaitingRoom

_log = structlog.get_logger(__name__)
R = TypeVar("R")
Decision = Callable[[Run, Instant], tuple[Sequence[Change], R]]

DEFAULT_RUN = "default"
_WORKER = (WorkerChanged, WorkerRemoved)
# Who waits for a version also waits for the trainer's coming and going.
_WAITED_FOR = (VersionCommitted, VersionRemoved, NothingNew, *_WORKER)
# What was given out and not yet stored at a crash is never given out again.
_RESTART_GAP = 100_000
_REMEMBERED_REQUESTS = 4096


@dataclass(eq=False, slots=True)
class _Live:
    """A run with what belongs to this process: its lock and the answers to recent requests."""

    run: Run
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    answers: OrderedDict[tuple[str, str], Any] = field(default_factory=OrderedDict)

    def remember(self, request: tuple[str, str], answer: object) -> None:
        """Keeps the answer to a request that has an id, and forgets the oldest."""
        if request[1]:
            self.answers[request] = answer
            if len(self.answers) > _REMEMBERED_REQUESTS:
                self.answers.popitem(last=False)


class Coordinator:
    """All runs of this server. Used on the event loop's thread alone."""

    def __init__(self, journal: Journal, clock: Callable[[], Instant] | None = None) -> None:
        self._journal = journal
        self._clock = ServerClock() if clock is None else clock
        self._ticking: asyncio.Task[None] | None = None
        self._runs: dict[str, _Live] = {}
        self._creation = asyncio.Lock()
        self._expiry: asyncio.Task[None] | None = None
        self._expiry_changed = asyncio.Event()
        self._observers: list[Callable[[str, Event], None]] = []
        self.room = WaitingRoom()

    async def start(self) -> None:
        """Restores what was stored, makes the default run, and begins to watch the leases."""
        now = self.now()
        for stored in await self._journal.load():
            run = stored.restore(stored.revision + _RESTART_GAP, now)
            self._runs[run.run_id] = _Live(run)
        await self._store_revisions(now)
        await self.transact(DEFAULT_RUN, lambda run, now: ((), None), create=True)
        self._expiry = asyncio.create_task(self._watch_leases())
        if isinstance(self._clock, ServerClock):
            self._ticking = asyncio.create_task(self._clock.run())

    async def _store_revisions(self, now: Instant) -> None:
        """Stores where the runs stand after the gap, or a second crash would find it unused."""
        marks = [
            Batch(r.run_id, [Event(r.revision, now.wall, NothingNew(""))], *r.pointers_after(()))
            for r in self.runs()
        ]
        try:
            await asyncio.gather(*[self._journal.write(mark) for mark in marks])
        except StorageError as error:
            # A full disk must not keep the server from serving what it has.
            _log.warning("the revisions after the restart are not stored", error=str(error))

    def observe(self, observer: Callable[[str, Event], None]) -> None:
        """Calls `observer(run_id, event)` for every event once it is true."""
        self._observers.append(observer)

    def release_waiters(self) -> None:
        """Answers every wait with ShuttingDown: the first step of a shutdown."""
        self.room.close()

    async def close(self) -> None:
        """Stores what is left."""
        tasks = [task for task in (self._expiry, self._ticking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._journal.close()

    def now(self) -> Instant:
        """The present moment."""
        return self._clock()

    def run(self, run_id: str) -> Run:
        """One run, to read. Raises RunNotFound."""
        live = self._runs.get(run_id)
        if live is None:
            raise _run_not_found(run_id)
        return live.run

    def find(self, run_id: str) -> Run | None:
        """One run, to read; None where there is none."""
        live = self._runs.get(run_id)
        return None if live is None else live.run

    def runs(self) -> list[Run]:
        """All runs, by name, to read."""
        return [self._runs[key].run for key in sorted(self._runs)]

    async def transact(
        self,
        run_id: str,
        decide: Decision[R],
        *,
        create: bool = False,
        durable: bool = True,
        request: tuple[str, str] = ("", ""),
    ) -> R:
        """Runs one mutation and returns the second half of what `decide` gave.

        `decide` raises a DomainError to refuse; then nothing changed. `durable` changes are
        acknowledged only when they survive a crash. A `request` (method, id) that was answered
        before is answered the same without being applied again. Raises StorageFull if the
        changes can't be stored; then nothing changed.
        """
        live = self._runs.get(run_id)
        if live is not None:
            work = self._locked(live, decide, durable=durable, request=request)
        elif create:
            work = self._create(run_id, decide, request)
        else:
            raise _run_not_found(run_id)
        # A caller that goes away must not leave a stored change unapplied.
        return await (asyncio.shield(asyncio.ensure_future(work)) if durable else work)

    async def _create(self, run_id: str, decide: Decision[R], request: tuple[str, str]) -> R:
        async with self._creation:
            live = self._runs.get(run_id)
            if live is None:
                now = self.now()
                live = _Live(Run(run_id, created_at=now.wall))
                created = live.run.number([RunCreated()], now)
                live.run.apply(created[0])
                changes, answer = decide(live.run, now)
                await self._record(live, changes, now, durable=True, before=created)
                # Only now: a run that was refused or could not be stored was never there.
                self._runs[run_id] = live
                live.remember(request, answer)
                return answer
        return await self._locked(live, decide, durable=True, request=request)

    async def _locked(
        self, live: _Live, decide: Decision[R], *, durable: bool, request: tuple[str, str]
    ) -> R:
        async with live.lock:
            if request in live.answers:
                remembered: R = live.answers[request]
                return remembered
            now = self.now()
            expired: list[Change] = [WorkerChanged(w) for w in live.run.workers.expire(now)]
            if expired:
                await self._record(live, expired, now, durable=False)
            changes, answer = decide(live.run, now)
            if changes:
                await self._record(live, changes, now, durable=durable)
            live.remember(request, answer)
            return answer

    async def _record(
        self,
        live: _Live,
        changes: Sequence[Change],
        now: Instant,
        *,
        durable: bool,
        before: Sequence[Event] = (),
    ) -> None:
        run = live.run
        events = run.number(changes, now)
        batch = Batch(run.run_id, [*before, *events], *run.pointers_after(changes))
        if durable:
            try:
                await self._journal.write(batch)
            except StorageError as error:
                raise StorageFull(f"the change could not be stored: {error}") from error
        else:
            self._journal.write_behind(batch)
        for event in events:
            run.apply(event)
            for observer in self._observers:
                observer(run.run_id, event)
        self._notify(run.run_id, changes)

    def _notify(self, run_id: str, changes: Sequence[Change]) -> None:
        """Wakes who waits for these changes."""
        if any(isinstance(c, _WORKER) for c in changes):
            self._expiry_changed.set()
        if any(isinstance(c, _WAITED_FOR) for c in changes):
            self.room.notify(("versions", run_id))
        self.room.notify(("events", run_id))

    async def _watch_leases(self) -> None:
        """Marks workers as lost the moment their lease runs out."""
        while True:
            expiries = [live.run.workers.next_expiry() for live in self._runs.values()]
            first = min((expiry for expiry in expiries if expiry is not None), default=None)
            self._expiry_changed.clear()
            timer = None
            if first is not None:
                delay = max(0.0, first - self.now().monotonic) + 0.001
                timer = asyncio.get_running_loop().call_later(delay, self._expiry_changed.set)
            try:
                # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes with the
                # event, and the shutdown would wait for this task for ever.
                await self._expiry_changed.wait()
            finally:
                if timer is not None:
                    timer.cancel()
            if first is not None and self.now().monotonic > first:
                await self.expire_leases()

    async def expire_leases(self) -> None:
        """Marks as lost every worker whose lease has run out, as the clock has it now."""
        for run_id, live in list(self._runs.items()):
            lost = live.run.workers.expire(self.now())
            if lost:
                _log.warning("leases ran out", run=run_id, workers=[w.worker_id for w in lost])
                # Every transaction begins with it.
                await self.transact(run_id, lambda run, now: ((), None), durable=False)

    def renew_lease(self, run_id: str, worker_id: str, generation: int) -> Worker:
        """A heartbeat: no change of the run, so no revision, no lock, nothing stored."""
        workers = self.run(run_id).workers
        worker = workers.renew(worker_id, generation, self.now())
        workers.put(worker)
        return worker

    async def wait_version(
        self, run_id: str, held: Held, max_wait: float, who: str, after_revision: int | None = None
    ) -> Outcome:
        """Parks until there is a version that the caller does not have, or no hope of one.

        A notice of nothing new after `after_revision` (None: from now on) is such an end. Raises
        RunNotFound and ShuttingDown. Changes nothing, however it ends.
        """
        run = self.run(run_id)
        since = run.revision if after_revision is None else after_revision

        def over() -> Outcome | None:
            trainer = run.workers.trainer()
            return wait_outcome(
                run.versions,
                None if trainer is None else trainer.state,
                held,
                nothing_new=run.nothing_new_revision > since,
            )

        what = "any version" if held.version is None else f"a version after {held.version}"
        parked = Parked(("versions", run_id), who, what, self.now().wall)
        # Asked once more: what came with the end of the time belongs to this answer's revision.
        return await self.room.wait(parked, over, max_wait) or over() or Outcome.TIMED_OUT

    def parked(self, run_id: str) -> list[Parked]:
        """Who waits for a version of the run, the longest wait first."""
        return self.room.parked(("versions", run_id))


def _run_not_found(run_id: str) -> RunNotFound:
    return RunNotFound(f"no run {run_id!r}; registering a worker or pushing creates it", run=run_id)
