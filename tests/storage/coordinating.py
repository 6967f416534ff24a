"""A coordinator on a store that can be held up, with a clock that is set by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain.leases import Instant
from sync_server.domain.runs import Run
from sync_server.domain.versions import Pusher, Version
from sync_server.domain.workers import Role, State, Worker
from sync_server.journal import Journal
from sync_server.storage.base import StateStore
from tests.storage.gated import GatedStore
from tests.storage.records import VERSION, WALL


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> Instant:
        """The moment."""
        return Instant(self.seconds, WALL + self.seconds)


class Harness:
    """A started coordinator, and short ways of asking it."""

    def __init__(self, coordinator: Coordinator, store: GatedStore, clock: ManualClock) -> None:
        self.coordinator = coordinator
        self.store = store
        self.clock = clock

    @property
    def run(self) -> Run:
        """The default run."""
        return self.coordinator.run("default")

    async def register(
        self,
        name: str,
        role: Role = Role.EXPLORER,
        *,
        run_id: str = "default",
        request_id: str = "",
        resume: int | None = None,
    ) -> Worker:
        """Registers for ten seconds."""
        return await self.coordinator.transact(
            run_id,
            partial(
                commands.register,
                worker_id=name,
                role=role,
                lease_seconds=10.0,
                resume_generation=resume,
            ),
            create=True,
            request=("RegisterWorker", request_id),
        )

    async def set_state(self, name: str, state: State, generation: int = 1) -> Worker:
        """Changes a state, without waiting for the store."""
        return await self.coordinator.transact(
            "default",
            partial(
                commands.set_state,
                worker_id=name,
                generation=generation,
                state=state,
                expected=None,
            ),
            durable=False,
        )

    async def report(self, name: str, version: int = 1) -> Worker:
        """Reports an applied version."""
        return await self.coordinator.transact(
            "default",
            partial(
                commands.report_applied, worker_id=name, generation=1, version=version, digest="d"
            ),
        )

    async def leave(self, name: str, generation: int = 1) -> None:
        """Deregisters."""
        await self.coordinator.transact(
            "default",
            partial(commands.deregister, worker_id=name, generation=generation),
        )

    async def push(self, number: int, name: str = "t") -> tuple[Version, bool]:
        """Commits a version of the trainer `name`."""
        pusher = Pusher(name, self.run.workers.generations().get(name, 0)) if name else Pusher()
        version = Version(
            number,
            f"d{number}",
            100,
            2,
            f"blob-{number}",
            VERSION.tensor_digests,
            pusher,
            0.0,
            0,
        )
        return await self.coordinator.transact(
            "default", partial(commands.commit, version=version, keep=2)
        )

    def assert_stored(self) -> None:
        """Memory and store hold the same, whatever happened (write-behinds must have settled)."""
        stored = {one.run_id: one for one in self.store.load()}
        live = {run.run_id: run for run in self.coordinator.runs()}
        assert set(stored) == set(live)
        for run_id, run in live.items():
            other = stored[run_id].restore(stored[run_id].revision, self.clock())
            assert other.revision == run.revision
            assert other.workers.generations() == run.workers.generations()
            assert [
                (w.worker_id, w.state, w.generation, w.applied) for w in other.workers.all()
            ] == [(w.worker_id, w.state, w.generation, w.applied) for w in run.workers.all()]
            assert other.versions.all() == run.versions.all()
            assert other.versions.latest() == run.versions.latest()
            assert other.versions.superseded_max == run.versions.superseded_max


@asynccontextmanager
async def coordinating(inner: StateStore | None = None) -> AsyncIterator[Harness]:
    """A coordinator that runs while the block does."""
    store, clock = GatedStore(inner), ManualClock()
    coordinator = Coordinator(Journal(store), clock)
    await coordinator.start()
    try:
        yield Harness(coordinator, store, clock)
    finally:
        store.release()
        await coordinator.close()
