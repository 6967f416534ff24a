"""The waiting room: no lost wake-up, nothing left behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from sync_server.domain.errors import ShuttingDown
from sync_server.waiting import Parked, WaitingRoom
from tests.until import until_async


class Room:
    """A room with a number in it, for which coroutines wait to reach some value."""

    def __init__(self) -> None:
        self.room = WaitingRoom()
        self.value = 0

    def set(self, value: int, topic: str = "topic") -> None:
        """Changes the number and notifies."""
        self.value = value
        self.room.notify(topic)

    async def reach(
        self, target: int, timeout: float | None = None, topic: str = "topic", who: str = ""
    ) -> int | None:
        """Waits until the number is at least `target`, and gives it."""
        parked = Parked(topic, who, f"{target}", 0.0)
        return await self.room.wait(
            parked, lambda: self.value if self.value >= target else None, timeout
        )

    def start(self, target: int, timeout: float | None = None) -> asyncio.Task[int | None]:
        """`reach` in a task of its own."""
        return asyncio.create_task(self.reach(target, timeout))

    def waits(self, topic: str = "topic") -> int:
        """How many are parked on the topic."""
        return len(self.room.parked(topic))


async def test_what_is_true_already_needs_no_waiting() -> None:
    room = Room()
    room.value = 3
    assert await room.reach(3) == 3
    assert await room.reach(4, timeout=0) is None
    assert room.waits() == 0


async def test_a_notification_wakes_those_whose_time_has_come() -> None:
    room = Room()
    waiters = {target: room.start(target) for target in (1, 2, 3)}
    await until_async(lambda: room.waits() == 3)
    room.set(2)
    assert [await waiters[1], await waiters[2]] == [2, 2]
    assert [parked.what for parked in room.room.parked("topic")] == ["3"]
    room.set(3)
    assert await waiters[3] == 3
    assert room.waits() == 0


async def test_a_notification_without_a_change_wakes_nobody() -> None:
    room = Room()
    waiter = room.start(1)
    await until_async(lambda: room.waits() == 1)
    for _ in range(10):
        room.room.notify("topic")
    room.set(5, topic="another")
    await asyncio.sleep(0)
    assert not waiter.done()
    room.set(5)
    assert await waiter == 5


async def test_a_value_that_came_and_went_before_the_waiter_ran_is_not_lost() -> None:
    """The notifier evaluates the predicate, so what was true then is what the waiter gets."""
    room = Room()
    waiter = room.start(1)
    await until_async(lambda: room.waits() == 1)
    room.set(1)
    room.set(0)
    assert await waiter == 1


async def test_no_wake_up_is_lost_however_tasks_interleave() -> None:
    """Waiters and notifier take turns at random; every waiter must see its value."""
    dice = random.Random(7)
    room = Room()

    async def chase() -> None:
        seen = 0
        while seen < 50:
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            value = await room.reach(seen + 1, timeout=30)
            assert value is not None, f"lost the wake-up after {seen}"
            assert value > seen
            seen = value

    async def change() -> None:
        for value in range(1, 51):
            room.set(value)
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)

    await asyncio.gather(*[chase() for _ in range(20)], change())
    assert room.waits() == 0


async def test_a_timeout_is_no_error_and_leaves_nothing_behind() -> None:
    room = Room()
    assert await room.reach(1, timeout=0.01) is None
    assert room.waits() == 0
    assert room.room._waits == {}  # not even an empty topic
    room.set(1)


async def test_a_value_that_comes_with_the_timeout_wins_or_times_out_but_never_hangs() -> None:
    room = Room()
    waiters = [room.start(1, timeout=0.02) for _ in range(50)]
    loop = asyncio.get_running_loop()
    loop.call_later(0.02, room.set, 1)
    results = await asyncio.gather(*waiters)
    assert set(results) <= {1, None}
    assert room.room._waits == {}


async def test_cancelling_cleans_up() -> None:
    room = Room()
    waiters = [room.start(1) for _ in range(3)]
    await until_async(lambda: room.waits() == 3)
    waiters[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiters[1]
    assert room.waits() == 2
    room.set(1)
    assert [await waiters[0], await waiters[2]] == [1, 1]
    assert room.room._waits == {}


async def test_cancelling_one_that_was_just_woken_harms_nobody() -> None:
    room = Room()
    waiters = [room.start(1) for _ in range(3)]
    await until_async(lambda: room.waits() == 3)
    room.set(1)
    waiters[0].cancel()
    first, *others = await asyncio.gather(*waiters, return_exceptions=True)
    assert first == 1 or isinstance(first, asyncio.CancelledError)
    assert others == [1, 1]
    assert room.room._waits == {}


async def test_a_predicate_that_fails_is_its_waiters_problem() -> None:
    room = Room()
    fails = False

    def predicate() -> int | None:
        if fails:
            raise ZeroDivisionError
        return None

    broken = asyncio.create_task(room.room.wait(Parked("topic", "", "", 0.0), predicate, None))
    sound = room.start(1)
    await until_async(lambda: room.waits() == 2)
    fails = True
    room.set(1)
    with pytest.raises(ZeroDivisionError):
        await broken
    assert await sound == 1


async def test_who_is_parked_the_longest_first() -> None:
    room = Room()
    tasks = []
    for index in range(5):
        tasks.append(asyncio.create_task(room.reach(1, who=f"e{index}")))
        await until_async(lambda: room.waits() == len(tasks))
    assert [parked.who for parked in room.room.parked("topic")] == [f"e{i}" for i in range(5)]
    room.set(1)
    assert room.waits() == 0  # they are as good as gone
    await asyncio.gather(*tasks)


async def test_closing_releases_all_and_lets_nobody_in() -> None:
    room = Room()
    waiters = [room.start(1) for _ in range(10)]
    waiters += [asyncio.create_task(room.reach(1, topic="another"))]
    await until_async(lambda: room.waits() == 10)
    room.room.close()
    room.room.close()
    for outcome in await asyncio.gather(*waiters, return_exceptions=True):
        assert isinstance(outcome, ShuttingDown)
    assert room.room._waits == {}
    with pytest.raises(ShuttingDown):
        await room.reach(1)
    with pytest.raises(ShuttingDown):
        await room.reach(0)  # also who would not have waited


async def test_five_thousand_waiters() -> None:
    room = Room()
    waiters = [room.start(1 + index % 2, timeout=60) for index in range(5000)]
    await until_async(lambda: room.waits() == 5000)
    room.set(1)
    assert await asyncio.gather(*waiters[::2]) == [1] * 2500
    assert room.waits() == 2500
    for waiter in waiters[1::4]:
        waiter.cancel()
    room.set(2)
    results = await asyncio.gather(*waiters[1::2], return_exceptions=True)
    assert sum(result == 2 for result in results) >= 1250
    assert room.room._waits == {}
