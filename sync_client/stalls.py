"""Byte streams on which nothing moves any more, although the connection is alive.

A stream has no deadline, since nobody knows how long its bytes take. But a server that hangs, or
a connection that confused two streams (one flipped bit is enough), would hold its caller for
ever: nothing for a minute is as good as a broken connection.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

STALL_SECONDS = 60.0
# How fast a server syncs to the slowest disk that is worth waiting for.
SYNC_BYTES_PER_SECOND = 20e6


class _Call(Protocol):
    def cancel(self) -> object:
        """Ends it."""


class StallGuard:
    """Cancels a call where the other side lets `STALL_SECONDS` pass between two signs of life."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since: float | None = self._loop.time()
        self._limit = STALL_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self.stalled = False
        """Whether it was this that ended the call."""

    def watch(self, call: _Call) -> None:
        """Begins. The timer looks now and then, so that a sign of life costs next to nothing."""
        self._timer = self._loop.call_later(self._limit / 4, self._look, call)

    def moved(self) -> None:
        """A sign of life: from now on it is the other side's turn."""
        self._since = self._loop.time()

    def hold(self) -> None:
        """It is our turn: that takes as long as it takes."""
        self._since = None

    def all_sent(self, size_bytes: int) -> None:
        """The other side now makes that many bytes durable."""
        self.moved()
        self._limit = STALL_SECONDS + size_bytes / SYNC_BYTES_PER_SECOND

    def stop(self) -> None:
        """Ends. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, call: _Call) -> None:
        if self._since is not None and self._loop.time() - self._since > self._limit:
            self.stalled = True
            call.cancel()
        else:
            self.watch(call)
