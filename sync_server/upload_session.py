"""One upload as the event loop feeds it: whatever blocks goes to other threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sync_server.domain.errors import UploadInProgress
from sync_server.intake import Intake, UploadRequest
from sync_server.storage.base import BlobStore

R = TypeVar("R")
_SMALL_BYTES = 1 << 20
_BIG_HEADER = 256 << 10  # parsing more than this would hold up the event loop


class UploadSession:
    """One version on its way in. Feed it with `write`, then `Uploads.finish` or `abandon` it."""

    def __init__(self, request: UploadRequest, blobs: BlobStore, max_header_bytes: int) -> None:
        self.request = request
        self.intake = Intake(request, blobs, max_header_bytes)
        self.superseded = False
        self.committed = False
        self.broken = False
        """Whether its sender has gone and may come back; until then any other one may begin."""
        self._preparing: asyncio.Future[int] | None = None
        # A few microseconds in memory are not worth three trips to another thread.
        self._quick = blobs.in_memory and request.size_bytes <= _SMALL_BYTES

    def check(self) -> None:
        """Raises UploadInProgress where a later attempt took this one's place."""
        if self.superseded:
            raise UploadInProgress("another upload of this version took the place of this one")

    async def write(self, data: memoryview) -> None:
        """Takes the next bytes of the stream.

        Raises SizeMismatch beyond the announced size, InvalidHeader, StorageFull, and
        UploadInProgress where a later attempt took this one's place.
        """
        self.check()
        intake = self.intake
        intake.check_room(len(data))
        if intake.layout is None:
            data = intake.gather(data)
            if not intake.header_is_whole:
                return
            big = intake.header_size > _BIG_HEADER
            await (asyncio.to_thread(intake.examine) if big else _at_once(intake.examine))
            intake.check_whole()
            await self.store(intake.reserve)
            await self._prepare(intake.header_size)
            intake.store_header()
        if data:
            await self._prepare(intake.received + len(data))
            intake.window(len(data))[:] = data
            intake.advance(len(data))

    async def reserve(self) -> Path | None:
        """Makes all of the segment ready for a client that writes into it by itself.

        Gives where it is. Raises StorageFull.
        """
        return await self.store(self.intake.segment)

    async def adopt(self) -> None:
        """Takes what the client wrote for the bytes of the stream. Raises InvalidHeader."""
        self.check()
        await asyncio.to_thread(self.intake.adopt)

    async def discard(self) -> None:
        """Drops what came."""
        if self._preparing is not None:
            await asyncio.wait([self._preparing])
        writer = self.intake.writer
        if writer is not None and not self.committed:
            await self.store(writer.discard)

    async def store(self, work: Callable[[], R]) -> R:
        """Runs a call of the blob store, off the event loop unless it is quick."""
        return work() if self._quick else await asyncio.to_thread(work)

    async def _prepare(self, end: int) -> None:
        """Waits until the mapping is warm up to `end`, and keeps the warming one window ahead.

        A copy into fresh pages costs ten times one into warm pages (FACTS), so they are made warm
        by another thread while the bytes are still on their way.
        """
        intake = self.intake
        if self._quick and intake.ready < end:
            intake.prepare()
        while intake.ready < end:
            if self._preparing is None:
                self._start_preparing()
            assert self._preparing is not None
            await asyncio.shield(self._preparing)
            self._preparing = None
        if self._preparing is None and intake.ready < self.request.size_bytes:
            self._start_preparing()

    def _start_preparing(self) -> None:
        loop = asyncio.get_running_loop()
        self._preparing = loop.run_in_executor(None, self.intake.prepare)


async def _at_once(work: Callable[[], None]) -> None:
    work()
