"""Receiving a version: from a stream of bytes to a committed blob.

A session is a state machine without sockets: the gRPC service and the bulk port feed it. Until
the whole header was validated, nothing is reserved and no byte of a tensor is accepted; until all
bytes came and their digest is the announced one, nothing is visible.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from sync_server.catalog import Catalog
from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain.errors import (
    DigestMismatch,
    DomainError,
    InvalidArgument,
    InvalidHeader,
    LimitExceeded,
    SizeMismatch,
    StorageFull,
    UploadInProgress,
)
from sync_server.domain.versions import Admission, Pusher, Version, check_number
from sync_server.storage.base import BlobStore, BlobWriter, StorageError
from weightsync.digests import StreamDigester, check_version_digest
from weightsync.layout import MAX_HEADER_BYTES, Layout, LayoutError, header_size, parse

_log = structlog.get_logger(__name__)
R = TypeVar("R")
_PREFIX_BYTES = 8
_SMALL_BYTES = 1 << 20
_BIG_HEADER = 256 << 10  # parsing more than this would hold up the event loop


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What a sender announces before the first byte."""

    run_id: str
    number: int
    pusher: Pusher
    size_bytes: int
    digest: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The version, and whether it was there before."""

    version: Version
    already_existed: bool


class UploadSession:
    """One version on its way in. Feed it with `write`, then `Uploads.finish` or `abandon` it."""

    def __init__(self, request: UploadRequest, blobs: BlobStore, max_header_bytes: int) -> None:
        self.request = request
        self.received = 0
        self.layout: Layout | None = None
        self.digester: StreamDigester | None = None
        self.writer: BlobWriter | None = None
        self.superseded = False
        self._blobs = blobs
        self._max_header_bytes = max_header_bytes
        self._header = bytearray()
        self._header_size = 0
        self._ready = 0
        self._preparing: asyncio.Future[int] | None = None
        # A few microseconds in memory are not worth three trips to another thread.
        self.quick = blobs.in_memory and request.size_bytes <= _SMALL_BYTES
        self.committed = False

    async def write(self, data: memoryview) -> None:
        """Takes the next bytes of the stream.

        Raises SizeMismatch beyond the announced size, InvalidHeader, StorageFull, and
        UploadInProgress where a later attempt took this one's place.
        """
        if self.superseded:
            raise UploadInProgress("another upload of this version took the place of this one")
        if self.received + len(data) > self.request.size_bytes:
            raise SizeMismatch(
                f"more than the announced {self.request.size_bytes} bytes came",
                announced=self.request.size_bytes,
            )
        if self.layout is None:
            data = await self._write_header(data)
        if data and self.digester is not None and self.writer is not None:
            end = self.received + len(data)
            await self._prepare(end)
            self.writer.view[self.received : end] = data
            self.digester.update(data)
            self.received = end

    async def reserve(self) -> Path | None:
        """Makes all of the segment ready for a client that writes into it by itself.

        Gives where it is. Raises StorageFull: what is handed out has all its pages, or running
        out of them would kill the client.
        """
        self.writer = await self._reserve()
        if self.writer.path is not None:
            await self._prepare(self.request.size_bytes)
        return self.writer.path

    async def adopt(self) -> None:
        """Takes what the client wrote for the bytes of the stream. Raises InvalidHeader."""
        if self.superseded:
            raise UploadInProgress("another upload of this version took the place of this one")
        assert self.writer is not None
        try:
            self.layout, self.digester = await asyncio.to_thread(
                _examine, self.writer.view, self._max_header_bytes
            )
        except LayoutError as error:
            raise InvalidHeader(str(error), problem=error.reason) from error
        self.received = self.request.size_bytes

    def check_complete(self) -> None:
        """Raises SizeMismatch or DigestMismatch unless exactly the announced bytes came."""
        if self.received != self.request.size_bytes or self.digester is None:
            raise SizeMismatch(
                f"{self.received + len(self._header)} of the announced "
                f"{self.request.size_bytes} bytes came",
                announced=self.request.size_bytes,
            )
        digest = self.digester.version_digest()
        if digest != self.request.digest:
            raise DigestMismatch(
                f"the tensors have digest {digest}, announced was {self.request.digest}",
                expected=self.request.digest,
                actual=digest,
            )

    def version(self, blob_id: str) -> Version:
        """The record of the complete version; `commands.commit` dates and numbers it."""
        assert self.layout is not None
        assert self.digester is not None
        digests = self.digester.tensor_digests()
        return Version(
            number=self.request.number,
            digest=self.request.digest,
            size_bytes=self.request.size_bytes,
            tensor_count=len(self.layout.tensors),
            blob_id=blob_id,
            tensor_digests=b"".join(
                bytes.fromhex(digests[entry.name].rpartition(":")[2])
                for entry in self.layout.tensors
            ),
            pusher=self.request.pusher,
            committed_at=0.0,
            revision=0,
        )

    async def discard(self) -> None:
        """Drops what came."""
        if self._preparing is not None:
            await asyncio.wait([self._preparing])
        if self.writer is not None and not self.committed:
            await self.store(self.writer.discard)

    async def store(self, work: Callable[[], R]) -> R:
        """Runs a call of the blob store, off the event loop unless it is quick."""
        return work() if self.quick else await asyncio.to_thread(work)

    async def _write_header(self, data: memoryview) -> memoryview:
        """Gathers the header; once it is whole and right, reserves the blob. Gives what is left."""
        size = self.request.size_bytes
        try:
            if len(self._header) < _PREFIX_BYTES:
                take = _PREFIX_BYTES - len(self._header)
                self._header += data[:take]
                data = data[take:]
                if len(self._header) < _PREFIX_BYTES:
                    return data
                self._header_size = header_size(bytes(self._header), size, self._max_header_bytes)
            take = self._header_size - len(self._header)
            self._header += data[:take]
            data = data[take:]
            if len(self._header) < self._header_size:
                return data
            reading = partial(parse, bytes(self._header), size, self._max_header_bytes)
            big = self._header_size > _BIG_HEADER
            self.layout = await asyncio.to_thread(reading) if big else reading()
        except LayoutError as error:
            raise InvalidHeader(str(error), problem=error.reason) from error
        self.digester = StreamDigester(self.layout)
        self.writer = await self._reserve()
        await self._prepare(self._header_size)
        self.writer.view[: self._header_size] = self._header
        self.received = self._header_size
        self._header.clear()
        return data

    async def _reserve(self) -> BlobWriter:
        request = self.request
        try:
            return await self.store(
                partial(self._blobs.create, request.run_id, request.number, request.size_bytes)
            )
        except StorageError as error:
            raise StorageFull(str(error)) from error

    async def _prepare(self, end: int) -> None:
        """Waits until the mapping is warm up to `end`, and keeps the warming one window ahead.

        A copy into fresh pages costs ten times one into warm pages (FACTS), so they are made warm
        by another thread while the bytes are still on their way.
        """
        assert self.writer is not None
        try:
            if self.quick and self._ready < end:
                self._ready = self.writer.prepare(self._ready)
        except StorageError as error:
            raise StorageFull(str(error)) from error
        while self._ready < end:
            if self._preparing is None:
                self._start_preparing()
            assert self._preparing is not None
            try:
                self._ready = await asyncio.shield(self._preparing)
            except StorageError as error:
                raise StorageFull(str(error)) from error
            self._preparing = None
        if self._preparing is None and self._ready < self.request.size_bytes:
            self._start_preparing()

    def _start_preparing(self) -> None:
        assert self.writer is not None
        loop = asyncio.get_running_loop()
        self._preparing = loop.run_in_executor(None, self.writer.prepare, self._ready)


class Uploads:
    """All uploads of this server."""

    def __init__(
        self,
        coordinator: Coordinator,
        blobs: BlobStore,
        catalog: Catalog,
        *,
        keep: int,
        max_uploads: int,
        max_header_bytes: int = MAX_HEADER_BYTES,
    ) -> None:
        self._coordinator = coordinator
        self._blobs = blobs
        self._catalog = catalog
        self._keep = keep
        self._max_uploads = max_uploads
        self._max_header_bytes = max_header_bytes
        self._open: dict[tuple[str, int], UploadSession] = {}

    async def begin(self, request: UploadRequest) -> UploadSession | Uploaded:
        """Admits a push. Gives the version at once where no bytes are needed.

        Raises what `commands.authorize_push` and `VersionBook.admit` raise, InvalidArgument,
        LimitExceeded (retry later), UploadInProgress (retry later).
        """
        _check(request)
        run = self._coordinator.find(request.run_id)
        if run is None and request.pusher.worker_id:
            self._coordinator.run(request.run_id)  # raises: a trainer's run exists
        if run is not None:
            commands.authorize_push(run, self._coordinator.now(), request.pusher)
            admission = run.versions.admit(request.number, request.digest, request.pusher)
            if admission is Admission.DONE:
                return Uploaded(run.versions.get(request.number), already_existed=True)
            if admission is Admission.REWIND:
                held = replace(run.versions.get(request.number), pusher=request.pusher)
                return await self._commit(request.run_id, held)
        key = (request.run_id, request.number)
        other = self._open.get(key)
        if other is not None:
            if not _replaces(request, other.request):
                raise UploadInProgress(f"version {request.number} is being uploaded by another")
            other.superseded = True
        elif len(self._open) >= self._max_uploads:
            raise LimitExceeded(f"{self._max_uploads} uploads are under way; try again later")
        session = UploadSession(request, self._blobs, self._max_header_bytes)
        self._open[key] = session
        return session

    async def finish(self, session: UploadSession) -> Uploaded:
        """Verifies, makes durable, and makes visible. Raises what the checks raise; see `begin`."""
        if session.superseded:
            raise UploadInProgress("another upload of this version took the place of this one")
        session.check_complete()
        writer, layout = session.writer, session.layout
        assert writer is not None
        assert layout is not None
        try:
            blob_id = await session.store(writer.commit)
        except StorageError as error:
            raise StorageFull(str(error)) from error
        session.committed = True
        try:
            uploaded = await self._commit(session.request.run_id, session.version(blob_id))
        except BaseException as error:
            # A cancelled caller does not stop the transaction: then the observer and the sweep
            # at the next start look after the blob.
            if isinstance(error, DomainError):
                await self._catalog.delete(blob_id)
            raise
        if uploaded.version.blob_id != blob_id:
            await self._catalog.delete(blob_id)
        return uploaded

    async def abandon(self, session: UploadSession) -> None:
        """Ends a session, whatever came of it. After `finish` it only makes room."""
        key = (session.request.run_id, session.request.number)
        if self._open.get(key) is session:
            del self._open[key]
        await session.discard()

    async def _commit(self, run_id: str, version: Version) -> Uploaded:
        committed, existed = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.commit(run, now, version=version, keep=self._keep),
            create=not version.pusher.worker_id,
        )
        _log.info(
            "version committed",
            run=run_id,
            version=committed.number,
            digest=committed.digest,
            size_bytes=committed.size_bytes,
            already_existed=existed,
        )
        return Uploaded(committed, existed)


def _examine(view: memoryview, max_header_bytes: int) -> tuple[Layout, StreamDigester]:
    """A whole stream in memory: its layout, and the digests of its tensors."""
    layout = parse(view, len(view), max_header_bytes)
    digester = StreamDigester(layout)
    digester.update(view[layout.data_offset :])
    return layout, digester


def _replaces(request: UploadRequest, other: UploadRequest) -> bool:
    """A retry, or a later generation, takes the place of an upload that may never end."""
    if request.pusher.worker_id:
        return True  # it holds the run: whoever began before it does not any more
    return bool(request.request_id) and request.request_id == other.request_id


def _check(request: UploadRequest) -> None:
    check_number(request.number)
    if request.size_bytes < _PREFIX_BYTES:
        raise InvalidArgument(
            f"size_bytes {request.size_bytes}: a safetensors file has at least 10 bytes",
            field="size_bytes",
        )
    try:
        check_version_digest(request.digest)
    except ValueError as error:
        raise InvalidArgument(str(error), field="digest") from error
