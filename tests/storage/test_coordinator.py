"""Transactions: all or nothing, stored before they are seen, and the same in memory and store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from sync_server.domain.errors import (
    DomainError,
    InvalidDuration,
    RunNotFound,
    StaleGeneration,
    StorageFull,
    TrainerActive,
)
from sync_server.domain.runs import Event, NothingNew, RunCreated, VersionCommitted
from sync_server.domain.waits import Held, Outcome
from sync_server.domain.workers import Role
from sync_server.storage.base import StorageError
from tests.storage.coordinating import Harness, coordinating
from tests.until import until_async


@pytest.fixture
async def here() -> AsyncIterator[Harness]:
    """A coordinator with the default run."""
    async with coordinating() as harness:
        yield harness


async def settled(here: Harness) -> None:
    """Everything that was to be written behind is written."""
    await here.coordinator.transact("default", lambda run, now: ([NothingNew("")], None))


# --- all or nothing


async def test_a_refused_registration_creates_no_run(here: Harness) -> None:
    with pytest.raises(InvalidDuration):
        await here.coordinator.transact(
            "new",
            lambda run, now: run.workers.register("e", Role.EXPLORER, 0.0, now),  # type: ignore[arg-type,return-value]  # it raises first
            create=True,
        )
    with pytest.raises(RunNotFound):
        here.coordinator.run("new")
    assert [run.run_id for run in here.store.load()] == ["default"]
    worker = await here.register("e", run_id="new")
    assert worker.generation == 1
    assert here.coordinator.run("new").revision == 2  # created, registered
    here.assert_stored()


async def test_without_create_an_unknown_run_stays_unknown(here: Harness) -> None:
    with pytest.raises(RunNotFound, match="creates it"):
        await here.coordinator.transact("nowhere", lambda run, now: ((), None))
    assert here.coordinator.find("nowhere") is None
    with pytest.raises(RunNotFound):
        here.coordinator.renew_lease("nowhere", "e", 1)
    with pytest.raises(RunNotFound):
        await here.coordinator.wait_version("nowhere", Held(None), 0, "")


async def test_what_can_not_be_stored_never_was(here: Harness) -> None:
    await here.register("t", Role.TRAINER)
    before = here.run.revision
    here.store.failures = [StorageError("disk full"), StorageError("disk full")]
    with pytest.raises(StorageFull, match="disk full"):
        await here.push(1)
    with pytest.raises(StorageFull):
        await here.register("e", run_id="new", request_id="1")
    assert (here.run.revision, here.run.versions.latest()) == (before, None)
    assert here.coordinator.find("new") is None
    here.assert_stored()
    await here.push(1)  # and once there is room it is
    assert (await here.register("e", run_id="new", request_id="1")).generation == 1
    here.assert_stored()


async def test_nothing_is_seen_before_it_is_stored(here: Harness) -> None:
    await here.register("t", Role.TRAINER)
    here.store.hold()
    waiter = asyncio.create_task(here.coordinator.wait_version("default", Held(None), 30, "e"))
    push = asyncio.create_task(here.push(1))
    created = asyncio.create_task(here.register("e", run_id="new"))
    await until_async(lambda: here.store.held and here.coordinator.parked("default"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert here.run.versions.latest() is None
    assert here.coordinator.find("new") is None
    assert not waiter.done()
    here.store.release()
    assert await waiter is Outcome.REACHED
    await push
    await created
    here.assert_stored()


async def test_a_caller_that_goes_away_leaves_memory_and_store_alike(here: Harness) -> None:
    await here.register("t", Role.TRAINER)
    here.store.hold()
    push = asyncio.create_task(here.push(1))
    created = asyncio.create_task(here.register("e", run_id="new", request_id="again"))
    await until_async(lambda: here.store.held)
    push.cancel()
    created.cancel()
    await asyncio.gather(push, created, return_exceptions=True)
    here.store.release()
    await until_async(lambda: here.run.versions.latest() and here.coordinator.find("new"))
    here.assert_stored()
    # The retry of the caller that went away is answered by what it did.
    assert (await here.register("e", run_id="new", request_id="again")).generation == 1


@pytest.mark.parametrize("seed", range(8))
async def test_memory_and_store_agree_whatever_fails_and_whoever_goes_away(
    here: Harness, seed: int
) -> None:
    dice = random.Random(seed)
    here.store.failures = [
        StorageError("now and then") if dice.random() < 0.2 else None for _ in range(200)
    ]

    async def attempt(index: int) -> None:
        name = f"e{index % 5}"
        generation = here.run.workers.generations().get(name, 1)
        match dice.randrange(6):
            case 0 | 1:
                await here.register(name, run_id=dice.choice(["default", "a", "b"]))
            case 2:
                await here.report(name)
            case 3:
                await here.leave(name, generation)
            case 4:
                await here.push(index, name="")
            case _:
                here.clock.seconds += 1.5
                here.coordinator.renew_lease("default", name, generation)

    tasks = []
    for index in range(120):
        task = asyncio.create_task(attempt(index))
        tasks.append(task)
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        if dice.random() < 0.2:
            dice.choice(tasks).cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        expected = DomainError | asyncio.CancelledError | None
        assert isinstance(outcome, expected), outcome
    here.store.failures = []
    await settled(here)
    # What is written behind (states, expiries) may be lost to a failure, and only that.
    stored = {one.run_id: one for one in here.store.load()}
    for run in here.coordinator.runs():
        assert stored[run.run_id].generations == run.workers.generations()
        assert {v.number: v for v in stored[run.run_id].versions} == {
            v.number: v for v in run.versions.all()
        }
        assert {w.worker_id for w in stored[run.run_id].workers} == {
            w.worker_id for w in run.workers.all()
        }


# --- requests that are repeated


async def test_a_repeated_request_is_answered_the_same(here: Harness) -> None:
    first = await here.register("e", request_id="r1")
    revision = here.run.revision
    assert await here.register("e", request_id="r1") == first
    assert here.run.revision == revision
    assert (await here.register("e", request_id="r2")).generation == 2
    assert (await here.register("e")).generation == 3  # no id: never a repetition
    assert (await here.register("e")).generation == 4
    assert (await here.register("e", request_id="r1")).generation == 1


async def test_two_attempts_of_one_request_at_once_are_one(here: Harness) -> None:
    answers = await asyncio.gather(*[here.register("e", request_id="r1") for _ in range(5)])
    assert {worker.generation for worker in answers} == {1}
    answers = await asyncio.gather(
        *[here.register("e", run_id="new", request_id="r1") for _ in range(5)]
    )
    assert {worker.generation for worker in answers} == {1}
    assert here.coordinator.run("new").workers.generations() == {"e": 1}


async def test_a_refused_request_may_be_tried_again(here: Harness) -> None:
    await here.register("t0", Role.TRAINER)
    with pytest.raises(TrainerActive):
        await here.register("t1", Role.TRAINER, request_id="r1")
    here.clock.seconds = 11.0
    assert (await here.register("t1", Role.TRAINER, request_id="r1")).generation == 1


# --- order and observers


async def test_observers_see_every_event_once_in_order_and_after_it_is_true(here: Harness) -> None:
    seen: list[Event] = []

    def observe(run_id: str, event: Event) -> None:
        assert here.coordinator.run(run_id).revision == event.revision
        seen.append(event)

    here.coordinator.observe(observe)
    start = here.run.revision
    await here.register("t", Role.TRAINER)
    await asyncio.gather(*[here.register(f"e{index}") for index in range(20)])
    for number in (1, 2, 3):
        await here.push(number)
    assert [event.revision for event in seen] == [*range(start + 1, here.run.revision + 1)]
    assert here.run.events_after(start) == seen
    assert isinstance(here.run.events_after(0)[0].change, RunCreated)
    assert sum(isinstance(event.change, VersionCommitted) for event in seen) == 3


async def test_a_push_that_waited_its_turn_is_fenced_by_what_came_before(here: Harness) -> None:
    """The generation is checked when the push is decided, not when it arrived."""
    await here.register("t", Role.TRAINER)
    here.store.hold()
    takeover = asyncio.create_task(here.register("t", Role.TRAINER))
    await until_async(lambda: here.store.held)
    push = asyncio.create_task(here.push(1))  # by generation 1, which still holds the name
    await asyncio.sleep(0)
    here.store.release()
    assert (await takeover).generation == 2
    with pytest.raises(StaleGeneration):
        await push
    assert here.run.versions.latest() is None
