"""Keeps a lease alive, and gets it back where it was lost without anybody having taken it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from sync_client import errors

_log = logging.getLogger("weightsync")
# Three beats a lease: one may be lost and one late before the lease is.
_BEATS = 3
Renew = Callable[[], Awaitable[object]]


class Heartbeat:
    """Calls `renew` three times a lease, until it is stopped or the worker was replaced."""

    def __init__(self, name: str, lease: float, renew: Renew) -> None:
        self._name = name
        self._interval = lease / _BEATS
        self._renew = renew
        self._task: asyncio.Task[None] | None = None
        self.fenced: errors.StaleGeneration | None = None
        """Set when another process took the name over: this one may change nothing any more."""

    def start(self) -> None:
        """Begins to beat on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._beat())

    async def stop(self) -> None:
        """Ends the beating. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _beat(self) -> None:
        healthy = True
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._renew()
            except errors.StaleGeneration as error:
                self.fenced = error
                _log.error("worker %s was replaced: %s", self._name, error)
                return
            except errors.SyncError as error:
                # Logged once, not at every beat: a server that is away stays away for a while.
                if healthy:
                    _log.warning("worker %s can't renew its lease: %s", self._name, error)
                healthy = False
            else:
                if not healthy:
                    _log.warning("worker %s renewed its lease again", self._name)
                healthy = True
