"""The server's clock: monotonic time that passes only while the server runs.

A server that was stopped for a minute (SIGSTOP, a paused virtual machine, a machine that swaps)
finds every lease over and every heartbeat still unread in its sockets. By a clock that did not
run meanwhile nobody is lost, and a worker that really died is noticed one lease later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from sync_server.domain.leases import Instant

_log = structlog.get_logger(__name__)
_TICK_SECONDS = 0.1
_STALL_SECONDS = 1.0


class ServerClock:
    """Call it for the present moment; `run` must tick in the background."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._last = monotonic()
        self._stalled = 0.0

    def __call__(self) -> Instant:
        """Now. Of a gap of more than a second since the last call or tick, one tick counts."""
        now = self._monotonic()
        gap = now - self._last
        self._last = now
        if gap > _STALL_SECONDS:
            self._stalled += gap - _TICK_SECONDS
            _log.warning("the server did not run for a while", seconds=round(gap, 1))
        return Instant(now - self._stalled, self._wall())

    async def run(self) -> None:
        """Ticks until it is cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self()
