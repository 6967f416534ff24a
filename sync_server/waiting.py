"""The waiting room: the only place where anything waits for a change.

A wait is a predicate and a future. It is checked once before it parks, so no wake-up is lost,
and again whenever its topic is notified; the notifier evaluates it, so a thousand waiters cost a
thousand predicates and no lock. All of it happens on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sync_server.domain.errors import ShuttingDown

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parked:
    """Who waits for what, since when (wall seconds)."""

    topic: Hashable
    who: str
    what: str
    since: float


@dataclass(eq=False, slots=True)
class _Wait(Generic[T]):
    parked: Parked
    predicate: Callable[[], T | None]
    future: asyncio.Future[T] = field(repr=False)


class WaitingRoom:
    """Parks coroutines until their predicate gives a value."""

    def __init__(self) -> None:
        # Dictionaries in place of sets: first come, first woken.
        self._waits: dict[Hashable, dict[_Wait[Any], None]] = {}
        self._closed = False

    async def wait(
        self, parked: Parked, predicate: Callable[[], T | None], timeout: float | None
    ) -> T | None:
        """The predicate's first value that is not None; None after `timeout` seconds.

        Raises ShuttingDown once the room is closed. Cancelling it leaves nothing behind.
        """
        self._refuse_when_closed()
        value = predicate()
        if value is not None or timeout == 0:
            return value
        wait = _Wait(parked, predicate, asyncio.get_running_loop().create_future())
        self._waits.setdefault(parked.topic, {})[wait] = None
        try:
            return await asyncio.wait_for(wait.future, timeout)
        except asyncio.TimeoutError:
            return None
        finally:
            self._leave(wait)

    def notify(self, topic: Hashable) -> None:
        """Wakes those on `topic` whose predicate now gives a value."""
        for wait in list(self._waits.get(topic, ())):
            if wait.future.done():
                continue
            try:
                value = wait.predicate()
            except Exception as error:  # noqa: BLE001 - it belongs to the waiter, not to the notifier
                wait.future.set_exception(error)
                continue
            if value is not None:
                wait.future.set_result(value)

    def parked(self, topic: Hashable) -> list[Parked]:
        """Everybody who waits on `topic`, the longest wait first."""
        return [wait.parked for wait in self._waits.get(topic, ()) if not wait.future.done()]

    def close(self) -> None:
        """Releases everybody with ShuttingDown and lets nobody in any more."""
        self._closed = True
        for waits in list(self._waits.values()):
            for wait in list(waits):
                if not wait.future.done():
                    wait.future.set_exception(_shutting_down())

    def _leave(self, wait: _Wait[Any]) -> None:
        waits = self._waits.get(wait.parked.topic)
        if waits is not None:
            waits.pop(wait, None)
            if not waits:
                del self._waits[wait.parked.topic]

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise _shutting_down()


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down; try again in a moment")
