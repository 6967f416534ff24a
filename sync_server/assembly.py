"""Versions that arrive in shards: every rank sends its part, and the blob is put together in place.

The headers of all shards come first: together they say which tensors there are. Only then is the
blob reserved, and every stream writes to where its slices belong, all at the same time. The version
becomes visible once every shard is there and verified. A shard that is sent again replaces itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from sync_server.domain.errors import (
    DigestMismatch,
    DomainError,
    InvalidArgument,
    InvalidHeader,
    ShardMissing,
    SizeMismatch,
    UploadInProgress,
)
from sync_server.domain.shards import check_shard, whole_tensors
from sync_server.gathering import Assembly, Described, Key, check_agreement
from sync_server.intake import Intake, UploadRequest
from sync_server.scatter import Scatter
from sync_server.storage.base import BlobStore
from sync_server.uploads import Uploaded, Uploads
from weightsync.digests import StreamDigester
from weightsync.layout import MAX_HEADER_BYTES, Layout, LayoutError, build
from weightsync.slices import SliceError, decode

_REMEMBERED = 64


class ShardUpload:
    """One shard on its way in: `write` its stream, then `finish`; in any case `abandon`."""

    def __init__(
        self, assemblies: Assemblies, assembly: Assembly, request: UploadRequest, index: int
    ) -> None:
        self.request = request
        self.index = index
        self.replaced = False
        self._assemblies = assemblies
        self._assembly = assembly
        self._intake = Intake(request, assemblies.blobs, assemblies.max_header_bytes)
        self._scatter: Scatter | None = None

    async def write(self, data: memoryview) -> None:
        """Takes the next bytes of the shard's stream; waits for the headers of the others.

        Raises SizeMismatch, InvalidHeader, ShardMissing, StorageFull, UploadInProgress.
        """
        self._check()
        self._intake.check_room(len(data))
        self._assembly.progress()
        if self._scatter is None:
            data = self._intake.gather(data)
            if not self._intake.header_is_whole:
                return
            self._intake.examine()
            layout = self._intake.layout
            assert layout is not None
            self._scatter = await self._assemblies.describe(self._assembly, self.index, layout)
            self._check()
        if data:
            self._scatter.write(data)
            self._intake.received += len(data)

    async def finish(self) -> Uploaded:
        """Verifies the shard and waits for the others. Raises as `write`, and DigestMismatch."""
        self._check()
        if self._scatter is None or self._intake.received != self.request.size_bytes:
            raise SizeMismatch(
                f"{self._intake.received} of the announced {self.request.size_bytes} bytes came",
                announced=self.request.size_bytes,
            )
        digest = self._scatter.digester.version_digest()
        if digest != self.request.digest:
            raise DigestMismatch(
                f"the tensors of shard {self.index} have digest {digest}, announced was "
                f"{self.request.digest}",
                expected=self.request.digest,
                actual=digest,
            )
        return await self._assemblies.complete(self._assembly, self.index, self._scatter.digester)

    async def abandon(self) -> None:
        """The stream has ended. What is not done may be sent again within a while."""
        if self._assembly.feeders.get(self.index) is self:
            del self._assembly.feeders[self.index]

    def _check(self) -> None:
        if self.replaced:
            raise UploadInProgress(f"shard {self.index} is sent by another stream now")
        if self._assembly.result.done():
            self._assembly.result.result()  # raises why it was given up


class Assemblies:
    """All versions that arrive in shards. Used on the event loop's thread."""

    def __init__(
        self,
        uploads: Uploads,
        blobs: BlobStore,
        *,
        wait_seconds: float,
        max_header_bytes: int = MAX_HEADER_BYTES,
    ) -> None:
        """`wait_seconds`: how long nothing may come of a version before it is given up."""
        self.blobs = blobs
        self.max_header_bytes = max_header_bytes
        self._wait_seconds = wait_seconds
        self._uploads = uploads
        self._open: dict[Key, Assembly] = {}
        self._watching: set[asyncio.Task[None]] = set()
        # Shards of versions that are complete: a rank whose answer was lost asks again.
        self._finished: OrderedDict[tuple[Key, int, str], Uploaded] = OrderedDict()

    async def join(self, request: UploadRequest, index: int, count: int) -> ShardUpload | Uploaded:
        """Admits a shard. Gives the version at once where this shard was a part of it.

        Raises what `Uploads.begin` raises, and InvalidArgument where shards disagree.
        """
        check_shard(index, count)
        key = (request.run_id, request.number)
        known = self._finished.get((key, index, request.digest))
        if known is not None:
            return replace(known, already_existed=True)
        assembly = self._open.get(key)
        if assembly is not None and assembly.pusher != request.pusher:
            # A later generation holds the run, or the check below refuses.
            self._uploads.admit(request)
            self._fail(assembly, UploadInProgress("another trainer pushes this version now"))
            assembly = None
        if assembly is None:
            self._uploads.admit(request)
            assembly = self._open[key] = Assembly(request, count)
            task = asyncio.get_running_loop().create_task(self._watch(assembly))
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)
        if assembly.count != count:
            raise InvalidArgument(
                f"{count} shards; other ranks say {assembly.count}", field="shard_count"
            )
        done = assembly.done.get(index)
        if done is not None and done.version_digest() == request.digest:
            # Its answer was lost, and its bytes are here.
            return replace(await asyncio.shield(assembly.result), already_existed=True)
        if len(assembly.done) == count:
            raise UploadInProgress("all shards came, and the version is being committed")
        assembly.done.pop(index, None)
        before = assembly.feeders.get(index)
        if before is not None:
            before.replaced = True
        upload = ShardUpload(self, assembly, request, index)
        assembly.feeders[index] = upload
        return upload

    async def describe(self, assembly: Assembly, index: int, layout: Layout) -> Scatter:
        """Notes a shard's header, waits for all of them, and gives where its bytes go."""
        try:
            slices = await asyncio.to_thread(decode, layout)
        except SliceError as error:
            raise InvalidHeader(str(error)) from error
        before = assembly.described.get(index)
        if before is not None and before.slices != slices and assembly.layout is not None:
            raise InvalidHeader(f"shard {index} is sent again with other tensors")
        assembly.described[index] = Described(layout, slices)
        if len(assembly.described) == assembly.count and assembly.opening is None:
            loop = asyncio.get_running_loop()
            assembly.opening = loop.create_task(self._reserve(assembly))
        ready = asyncio.ensure_future(assembly.ready.wait())
        either: set[asyncio.Future[Any]] = {ready, assembly.result}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if assembly.result.done():
            assembly.result.result()
        session, whole = assembly.session, assembly.layout
        assert session is not None
        assert session.intake.writer is not None
        assert whole is not None
        data = session.intake.writer.view[whole.data_offset :]
        return Scatter(layout, slices, whole, data)

    async def complete(self, assembly: Assembly, index: int, digester: StreamDigester) -> Uploaded:
        """A shard is there and right; the last one commits the version for all."""
        assembly.progress()
        assembly.done[index] = digester
        if len(assembly.done) == assembly.count and not assembly.result.done():
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._commit(assembly))
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)
        return await asyncio.shield(assembly.result)

    async def close(self) -> None:
        """Gives up what is not complete."""
        for assembly in list(self._open.values()):
            self._fail(assembly, ShardMissing("the server is about to stop"))
        while self._watching:
            await asyncio.wait(self._watching)

    async def _reserve(self, assembly: Assembly) -> None:
        try:
            shards = {index: found.slices for index, found in assembly.described.items()}
            whole = await asyncio.to_thread(whole_tensors, shards)
            layout = build(whole)
            run_id, number = assembly.key
            request = UploadRequest(run_id, number, assembly.pusher, layout.total_bytes, "")
            session = self._uploads.open_assembled(request)
            assembly.session = session
            await asyncio.to_thread(session.intake.segment)
            assert session.intake.writer is not None
            session.intake.writer.view[: layout.data_offset] = layout.header
            assembly.layout = layout
            assembly.ready.set()
        except LayoutError as error:
            self._fail(assembly, InvalidHeader(str(error), problem=error.reason))
        except DomainError as error:
            self._fail(assembly, error)

    async def _commit(self, assembly: Assembly) -> None:
        session = assembly.session
        assert session is not None
        try:
            check_agreement(assembly)
            await session.adopt()
            digester = session.intake.digester
            assert digester is not None
            request = replace(session.request, digest=digester.version_digest())
            session.request = session.intake.request = request
            uploaded = await self._uploads.finish(session)
        except DomainError as error:
            self._fail(assembly, error)
            return
        for index, found in assembly.done.items():
            self._finished[assembly.key, index, found.version_digest()] = uploaded
        while len(self._finished) > _REMEMBERED * assembly.count:
            self._finished.popitem(last=False)
        if not assembly.result.done():
            assembly.result.set_result(uploaded)

    async def _watch(self, assembly: Assembly) -> None:
        """Ends with the assembly; gives it up when nothing comes any more."""
        loop = asyncio.get_running_loop()
        while not assembly.result.done():
            left = assembly.moved_at + self._wait_seconds - loop.time()
            committing = len(assembly.done) == assembly.count
            if left <= 0 and not committing:
                text = f"{assembly.late()} did not come within {self._wait_seconds:g} s"
                self._fail(assembly, ShardMissing(text, missing=assembly.late()))
                break
            await asyncio.wait({assembly.result}, timeout=max(left, 0.1))
        if self._open.get(assembly.key) is assembly:
            del self._open[assembly.key]
        if assembly.opening is not None:
            await asyncio.wait({assembly.opening})
        if assembly.session is not None:
            await self._uploads.abandon(assembly.session)

    @staticmethod
    def _fail(assembly: Assembly, error: DomainError) -> None:
        if not assembly.result.done():
            assembly.result.set_exception(error)
            assembly.result.exception()  # seen, even if nobody waits
