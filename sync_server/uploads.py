"""Uploads: admitted, received, verified, committed; whichever way their bytes come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from sync_server.catalog import Catalog
from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain.errors import (
    DomainError,
    InvalidArgument,
    LimitExceeded,
    StorageFull,
    UploadInProgress,
)
from sync_server.domain.versions import Admission, Version, check_number
from sync_server.intake import UploadRequest
from sync_server.storage.base import BlobStore, SpareBlob, StorageError
from sync_server.upload_session import UploadSession
from weightsync.digests import check_version_digest
from weightsync.layout import MAX_HEADER_BYTES

_log = structlog.get_logger(__name__)
_SMALLEST_BYTES = 10  # the length of the header, and "{}"
_WORTH_WARMING = 16 << 20


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The version, and whether it was there before."""

    version: Version
    already_existed: bool
    next_segment: Path | None = None
    """What the next push of this size will be written into, where that is known."""


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
        self._warming: set[asyncio.Task[None]] = set()

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
            if not other.broken and not _replaces(request, other.request):
                raise UploadInProgress(f"version {request.number} is being uploaded by another")
            other.superseded = True
        elif len(self._open) >= self._max_uploads:
            raise LimitExceeded(f"{self._max_uploads} uploads are under way; try again later")
        session = UploadSession(request, self._blobs, self._max_header_bytes)
        self._open[key] = session
        return session

    def admit(self, request: UploadRequest) -> None:
        """Raises where a push of this number would be refused whatever its bytes are."""
        check_number(request.number)
        run = self._coordinator.find(request.run_id)
        if run is None and request.pusher.worker_id:
            self._coordinator.run(request.run_id)  # raises: a trainer's run exists
        if run is not None:
            commands.authorize_push(run, self._coordinator.now(), request.pusher)
            run.versions.admit(request.number, request.digest, request.pusher)

    def open_assembled(self, request: UploadRequest) -> UploadSession:
        """A session for a version that is put together in place; its digest is known at last.

        Raises as `begin`.
        """
        self.admit(request)
        key = (request.run_id, request.number)
        other = self._open.get(key)
        if other is not None:
            other.superseded = True
        elif len(self._open) >= self._max_uploads:
            raise LimitExceeded(f"{self._max_uploads} uploads are under way; try again later")
        session = self._open[key] = UploadSession(request, self._blobs, self._max_header_bytes)
        return session

    async def finish(self, session: UploadSession) -> Uploaded:
        """Verifies, makes durable, and makes visible. Raises what the checks raise; see `begin`."""
        session.check()
        session.intake.check_complete()
        writer = session.intake.writer
        assert writer is not None
        try:
            blob_id = await session.store(writer.commit)
        except StorageError as error:
            raise StorageFull(str(error)) from error
        session.committed = True
        before = self._count(session.request)
        try:
            uploaded = await self._commit(session.request.run_id, session.intake.version(blob_id))
        except BaseException as error:
            # A cancelled caller does not stop the transaction: then the observer and the sweep
            # at the next start look after the blob.
            if isinstance(error, DomainError):
                await self._catalog.delete(blob_id)
            raise
        if uploaded.version.blob_id != blob_id:
            await self._catalog.delete(blob_id)
        elif (
            # A trainer will push as many bytes again, and no retired version left its file.
            session.request.pusher.worker_id
            and session.request.size_bytes >= _WORTH_WARMING
            and self._count(session.request) > before
        ):
            return replace(uploaded, next_segment=await self._warm(session.request))
        return uploaded

    def _count(self, request: UploadRequest) -> int:
        run = self._coordinator.find(request.run_id)
        return 0 if run is None else len(run.versions.all())

    async def _warm(self, request: UploadRequest) -> Path | None:
        """Begins to make room for the next push; gives where that is."""

        async def warm(spare: SpareBlob) -> None:
            try:
                await asyncio.to_thread(spare.warm)
            except StorageError as error:
                _log.warning("nothing made ready for the next push", error=str(error))

        try:
            making = partial(self._blobs.spare, request.run_id, request.size_bytes)
            spare = await asyncio.to_thread(making)
        except StorageError:
            return None
        if spare is None:
            return None
        path = spare.path
        task = asyncio.get_running_loop().create_task(warm(spare))
        self._warming.add(task)
        task.add_done_callback(self._warming.discard)
        return path

    async def close(self) -> None:
        """Waits for what is being made ready."""
        if self._warming:
            await asyncio.wait(self._warming)

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


def _replaces(request: UploadRequest, other: UploadRequest) -> bool:
    """A retry, or a later generation, takes the place of an upload that may never end."""
    if request.pusher.worker_id:
        return True  # it holds the run: whoever began before it does not any more
    return bool(request.request_id) and request.request_id == other.request_id


def _check(request: UploadRequest) -> None:
    check_number(request.number)
    if request.size_bytes < _SMALLEST_BYTES:
        raise InvalidArgument(
            f"size_bytes {request.size_bytes}: a safetensors file has at least 10 bytes",
            field="size_bytes",
        )
    try:
        check_version_digest(request.digest)
    except ValueError as error:
        raise InvalidArgument(str(error), field="digest") from error
