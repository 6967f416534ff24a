"""Leases that run out, heartbeats, restarts, and the end of a coordinator."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain.errors import LeaseExpired, RevisionCompacted, StorageFull
from sync_server.domain.waits import Held, Outcome
from sync_server.domain.workers import Role, State
from sync_server.journal import Journal
from sync_server.storage.base import StorageError
from sync_server.storage.memory import MemoryStateStore
from sync_server.storage.sqlite import SqliteStateStore
from tests.storage.coordinating import Harness, coordinating
from tests.until import until_async


@pytest.fixture
async def here() -> AsyncIterator[Harness]:
    """A coordinator with the default run."""
    async with coordinating() as harness:
        yield harness


# --- leases


async def test_a_lease_that_runs_out_makes_lost_by_itself() -> None:
    """On the real clock, with the shortest lease; nobody asks anything meanwhile."""
    coordinator = Coordinator(Journal(MemoryStateStore()))
    await coordinator.start()
    for name, role, seconds in (("t", Role.TRAINER, 1.0), ("e", Role.EXPLORER, 60.0)):
        await coordinator.transact(
            "default",
            partial(
                commands.register,
                worker_id=name,
                role=role,
                lease_seconds=seconds,
                resume_generation=None,
            ),
        )
    run = coordinator.run("default")
    begun = coordinator.now().monotonic
    waiter = asyncio.create_task(coordinator.wait_version("default", Held(None), 30, "e"))
    assert await waiter is Outcome.TRAINER_LOST
    assert 0.5 < coordinator.now().monotonic - begun < 5.0
    assert run.workers.get("t").state is State.LOST
    assert run.workers.get("e").state is State.RUNNING
    with pytest.raises(LeaseExpired):
        coordinator.renew_lease("default", "t", 1)
    await coordinator.close()


async def test_a_worker_that_was_lost_has_a_revision_and_is_stored(here: Harness) -> None:
    await here.register("e")
    before = here.run.revision
    here.clock.seconds = 10.5
    await here.coordinator.expire_leases()
    await here.coordinator.expire_leases()
    assert here.run.revision == before + 1
    await here.register("other")
    here.assert_stored()


async def test_every_transaction_sees_the_leases_as_they_are(here: Harness) -> None:
    await here.register("t0", Role.TRAINER)
    here.clock.seconds = 10.5
    await here.register("t1", Role.TRAINER)  # nobody noticed the end of t0 before
    assert here.run.workers.get("t0").state is State.LOST
    assert here.run.workers.explorer_counts() == {}


async def test_heartbeats_keep_alive_and_cost_no_revision(here: Harness) -> None:
    await here.register("e")
    before, transactions = here.run.revision, len(here.store.transactions)
    for beat in range(1, 30):
        here.clock.seconds = beat * 5.0
        await here.coordinator.expire_leases()
        assert here.coordinator.renew_lease("default", "e", 1).state is State.RUNNING
    assert here.run.revision == before
    assert len(here.store.transactions) == transactions


async def test_a_heartbeat_during_a_slow_write_counts(here: Harness) -> None:
    """The change that is being stored was decided before the heartbeat; it must not undo it."""
    await here.register("e")
    here.store.hold()
    report = asyncio.create_task(here.report("e"))
    await until_async(lambda: here.store.held)
    here.clock.seconds = 9.0
    here.coordinator.renew_lease("default", "e", 1)
    here.clock.seconds = 12.0
    here.store.release()
    await report
    await here.coordinator.expire_leases()
    worker = here.run.workers.get("e")
    assert (worker.state, worker.lease.expires_at) == (State.RUNNING, 19.0)
    assert worker.applied is not None


# --- restarts


async def test_everything_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with coordinating(SqliteStateStore(path)) as before:
        await before.register("t", Role.TRAINER)
        await before.register("e")
        await before.report("e")
        for number in (1, 2, 3):
            await before.push(number)
        await before.register("gone", run_id="other")
        revision, versions = before.run.revision, before.run.versions.all()
    async with coordinating(SqliteStateStore(path)) as after:
        assert [run.run_id for run in after.coordinator.runs()] == ["default", "other"]
        assert after.run.versions.all() == versions
        assert after.run.versions.current == 3
        assert after.run.workers.get("e").applied is not None
        # Its absence lost nobody: the leases begin anew.
        assert after.coordinator.renew_lease("default", "t", 1).state is State.RUNNING
        assert after.run.revision > revision
        with pytest.raises(RevisionCompacted):
            after.run.events_after(revision)
        await after.push(4)
        after.assert_stored()


async def test_no_revision_is_ever_given_out_twice(tmp_path: Path) -> None:
    """Also not those of changes that a crash took back before they were written behind."""
    path = tmp_path / "state.sqlite3"
    highest = 0
    for crash in range(3):
        async with coordinating(SqliteStateStore(path)) as here:
            assert here.run.revision > highest
            if not crash:
                await here.register("e")
            path.with_name("frozen").unlink(missing_ok=True)
            here.store.hold()
            for state in (State.WAITING_SYNC, State.RUNNING) * 5:
                await here.set_state("e", state)
            highest = here.run.revision  # watchers saw it, and the file did not
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", f"{path}-frozen{suffix}")
        for suffix in ("", "-wal"):  # what a crash would have left
            shutil.copy(f"{path}-frozen{suffix}", f"{path}{suffix}")


async def test_a_server_whose_disk_is_full_still_starts_and_serves(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with coordinating(SqliteStateStore(path)) as before:
        await before.push(1, name="")

    class FullStore(SqliteStateStore):
        """Can be read, and no longer written."""

        def apply(self, batches: object) -> None:
            """Refuses."""
            raise StorageError("disk full")

    async with coordinating(FullStore(path)) as after:
        latest = after.run.versions.latest()
        assert latest is not None
        assert latest.number == 1
        with pytest.raises(StorageFull):
            await after.push(2, name="")


async def test_a_store_that_can_not_be_read_stops_the_start(tmp_path: Path) -> None:
    store = SqliteStateStore(tmp_path / "state.sqlite3")
    store.close()
    journal = Journal(store)
    with pytest.raises(StorageError):
        await Coordinator(journal).start()
    await journal.close()


# --- the end


async def test_closing_right_after_a_change_does_not_hang() -> None:
    """The watcher of the leases is being woken by the change while it is cancelled."""
    for _ in range(20):
        coordinator = Coordinator(Journal(MemoryStateStore()))
        await coordinator.start()
        for durable in (True, False):
            await coordinator.transact(
                "default",
                partial(
                    commands.register,
                    worker_id="e",
                    role=Role.EXPLORER,
                    lease_seconds=3600.0,
                    resume_generation=None,
                ),
                durable=durable,
            )
            if durable:
                await asyncio.sleep(0)
        await asyncio.wait_for(coordinator.close(), 10)


async def test_what_was_written_behind_is_stored_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with coordinating(SqliteStateStore(path)) as here:
        await here.register("e")
        for state in (State.REQUIRE_SYNC, State.WAITING_SYNC):
            await here.set_state("e", state)
    (stored,) = SqliteStateStore(path).load()
    assert [worker.state for worker in stored.workers] == [State.WAITING_SYNC]


async def test_a_transaction_after_the_end_is_refused_and_changes_nothing() -> None:
    async with coordinating() as here:
        revision = here.run.revision
    with pytest.raises(StorageFull):
        await asyncio.wait_for(here.register("e"), 10)
    assert here.run.revision == revision
