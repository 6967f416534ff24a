"""Waiting for a version: every reason for which a wait ends, and none that is missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sync_server.domain.errors import ShuttingDown
from sync_server.domain.runs import NothingNew
from sync_server.domain.waits import Held, Outcome
from sync_server.domain.workers import Role, State
from tests.storage.coordinating import Harness, coordinating
from tests.until import until_async


@pytest.fixture
async def here() -> AsyncIterator[Harness]:
    """A coordinator with the default run."""
    async with coordinating() as harness:
        yield harness


async def test_waits_end_for_each_of_their_reasons(here: Harness) -> None:
    def wait(after: int | None, seconds: float = 30.0) -> asyncio.Task[Outcome]:
        return asyncio.create_task(
            here.coordinator.wait_version("default", Held(after), seconds, "e")
        )

    async def parked(count: int = 1) -> None:
        await until_async(lambda: len(here.coordinator.parked("default")) == count)

    assert await wait(None, 0.0) is Outcome.TIMED_OUT
    assert await wait(None, 0.01) is Outcome.TIMED_OUT
    await here.register("t", Role.TRAINER)
    any_version, second = wait(None), wait(1)
    await parked(2)
    assert [one.what for one in here.coordinator.parked("default")] == [
        "any version",
        "a version after 1",
    ]
    await here.push(1)
    assert await any_version is Outcome.REACHED
    await parked()
    await here.push(2)
    assert await second is Outcome.REACHED

    idle = wait(2)
    await parked()
    await here.coordinator.transact("default", lambda run, now: ([NothingNew("t")], None))
    assert await idle is Outcome.NOTHING_NEW
    stopped = wait(2)
    await parked()
    await here.set_state("t", State.STOPPED)
    assert await stopped is Outcome.TRAINER_STOPPED
    assert await wait(2) is Outcome.TRAINER_STOPPED
    assert await wait(1) is Outcome.REACHED  # a stopped trainer still delivered
    await here.set_state("t", State.RUNNING)
    lost = wait(2)
    await parked()
    here.clock.seconds += 11.0
    await here.coordinator.expire_leases()
    assert await lost is Outcome.TRAINER_LOST
    assert here.coordinator.parked("default") == []


async def test_when_the_live_trainer_leaves_the_lost_one_is_seen_again(here: Harness) -> None:
    """A wait that began now would end at once; one that is parked must not be forgotten."""
    await here.register("t0", Role.TRAINER)
    here.clock.seconds = 11.0
    await here.register("t1", Role.TRAINER)
    waiter = asyncio.create_task(here.coordinator.wait_version("default", Held(None), 30, "e"))
    await until_async(lambda: here.coordinator.parked("default"))
    await here.leave("t1")
    assert await asyncio.wait_for(waiter, 5) is Outcome.TRAINER_LOST


async def test_shutting_down_answers_every_wait(here: Harness) -> None:
    waiters = [
        asyncio.create_task(here.coordinator.wait_version("default", Held(None), 30, "e"))
        for _ in range(10)
    ]
    await until_async(lambda: len(here.coordinator.parked("default")) == 10)
    here.coordinator.release_waiters()
    for outcome in await asyncio.gather(*waiters, return_exceptions=True):
        assert isinstance(outcome, ShuttingDown)
    await here.register("e")  # what is not a wait goes on until the end
