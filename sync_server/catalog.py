"""Committed blobs, open for reading.

A blob is mapped once and shared by every download of it. Deleting one while it is read lets the
readers finish: the file goes at once, its pages with the last reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from sync_server.domain.errors import BlobDamaged
from sync_server.domain.runs import Event, VersionRemoved
from sync_server.domain.versions import NO_FILE, Version
from sync_server.storage.base import BlobMissing, BlobReader, BlobStore, StorageError
from weightsync.layout import Layout, LayoutError, parse

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class OpenBlob:
    """A mapped blob and where its tensors lie."""

    version: Version
    layout: Layout
    reader: BlobReader
    users: int = 0
    retired: bool = False

    @property
    def view(self) -> memoryview:
        """All bytes of the file, read-only."""
        return self.reader.view

    def tensor_digests(self) -> dict[str, str]:
        """The digest of every tensor, by name."""
        packed = self.version.tensor_digests
        return {
            entry.name: f"xxh3-64:{packed[8 * index : 8 * index + 8].hex()}"
            for index, entry in enumerate(self.layout.tensors)
        }


class Catalog:
    """Opens blobs and deletes them; used on the event loop's thread."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._open: dict[str, OpenBlob] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._deletions: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def reading(self, version: Version) -> AsyncIterator[OpenBlob]:
        """The version's blob, for as long as the block runs.

        Raises BlobDamaged, and VersionElsewhere for one that is only a reference.
        """
        version.check_here()
        blob = await self._get(version)
        blob.users += 1
        try:
            yield blob
        finally:
            blob.users -= 1
            self._close_if_unused(blob)

    async def delete(self, blob_id: str) -> None:
        """Deletes a blob; who reads it goes on."""
        blob = self._open.pop(blob_id, None)
        if blob is not None:
            blob.retired = True
            self._close_if_unused(blob)
        try:
            await asyncio.to_thread(self._blobs.delete, blob_id)
        except (OSError, StorageError) as error:
            _log.error("blob not deleted", blob=blob_id, error=str(error))

    def on_event(self, run_id: str, event: Event) -> None:
        """An observer of the coordinator: a version that was removed takes its blob with it."""
        del run_id
        gone = event.change
        if isinstance(gone, VersionRemoved) and not gone.blob_id.startswith(NO_FILE):
            task = asyncio.get_running_loop().create_task(self.delete(gone.blob_id))
            self._deletions.add(task)
            task.add_done_callback(self._deletions.discard)

    async def close(self) -> None:
        """Waits for deletions and closes what is open."""
        if self._deletions:
            await asyncio.wait(self._deletions)
        for blob in self._open.values():
            blob.reader.close()
        self._open.clear()

    async def _get(self, version: Version) -> OpenBlob:
        blob = self._open.get(version.blob_id)
        if blob is not None:
            return blob
        # One download opens; those that come meanwhile share what it opened.
        lock = self._opening.setdefault(version.blob_id, asyncio.Lock())
        try:
            async with lock:
                blob = self._open.get(version.blob_id)
                if blob is None:
                    blob = await asyncio.to_thread(self._load, version)
                    self._open[version.blob_id] = blob
                return blob
        finally:
            self._opening.pop(version.blob_id, None)

    def _load(self, version: Version) -> OpenBlob:
        try:
            reader = self._blobs.open(version.blob_id)
        except BlobMissing as error:
            raise BlobDamaged(
                f"the bytes of version {version.number} can't be read: {error}",
                version=version.number,
            ) from error
        try:
            if len(reader.view) != version.size_bytes:
                raise LayoutError("size_mismatch", f"the file has {len(reader.view)} bytes")
            layout = parse(reader.view, version.size_bytes)
        except LayoutError as error:
            reader.close()
            raise BlobDamaged(
                f"the file of version {version.number} is damaged: {error}",
                version=version.number,
            ) from error
        return OpenBlob(version, layout, reader)

    @staticmethod
    def _close_if_unused(blob: OpenBlob) -> None:
        if blob.retired and blob.users == 0:
            blob.reader.close()
