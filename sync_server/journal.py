"""Writes changes to the state store off the event loop, many in one transaction.

While one transaction is being synced, everything that arrives is gathered for the next one
(group commit), so a burst of registrations costs a few syncs and not thousands.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from sync_server.storage.base import Batch, StateStore, StorageError, StoredRun

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Entry:
    batch: Batch
    done: asyncio.Future[None] | None


class Journal:
    """The only user of a state store; everything is called on the event loop's thread."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        # SQLite wants one thread at a time, and order is the point.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._entries: list[_Entry] = []
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False

    async def load(self) -> list[StoredRun]:
        """What was acknowledged before. Raises StorageError."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._store.load)

    async def write(self, batch: Batch) -> None:
        """Returns once the batch survives a crash. Raises StorageError: then it was not stored."""
        done = asyncio.get_running_loop().create_future()
        self._append(_Entry(batch, done))
        await done

    def write_behind(self, batch: Batch) -> None:
        """Stores the batch soon. For what a worker's next heartbeat would mend anyway."""
        self._append(_Entry(batch, None))

    async def close(self) -> None:
        """Writes what is left and closes the store; what comes later is refused."""
        while self._flushing is not None:
            await self._flushing
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._executor, self._store.close)
        self._executor.shutdown()

    def _append(self, entry: _Entry) -> None:
        if self._closed:
            if entry.done is not None:
                entry.done.set_exception(StorageError("the journal is closed"))
            return
        self._entries.append(entry)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._entries:
            entries, self._entries = self._entries, []
            batches = [entry.batch for entry in entries]
            try:
                if self._store.in_memory:
                    self._store.apply(batches)
                else:
                    await loop.run_in_executor(self._executor, self._store.apply, batches)
            except Exception as fault:  # noqa: BLE001 - whatever it is, the next write must go on
                error = fault
                if not isinstance(fault, StorageError):
                    error = StorageError(f"a fault of the state store: {fault}")
                    error.__cause__ = fault
                fault_info = None if error is fault else fault
                _log.error(
                    "state not stored", batches=len(batches), error=str(error), exc_info=fault_info
                )
                for entry in entries:
                    if entry.done is not None and not entry.done.done():
                        entry.done.set_exception(error)
            else:
                for entry in entries:
                    if entry.done is not None and not entry.done.done():
                        entry.done.set_result(None)
        self._flushing = None
