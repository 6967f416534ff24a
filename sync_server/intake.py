"""The bytes of one version on their way in: header, blob, digests; no sockets, no event loop.

Until the whole header was validated, nothing is reserved and no byte of a tensor is accepted. The
gRPC stream feeds it from the event loop (`uploads.UploadSession`), the bulk port from a thread.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sync_server.domain.errors import (
    DigestMismatch,
    InvalidHeader,
    SizeMismatch,
    StorageFull,
)
from sync_server.domain.versions import Pusher, Version
from sync_server.storage.base import BlobStore, BlobWriter, StorageError
from weightsync.digests import StreamDigester, tensor_digest
from weightsync.layout import Layout, LayoutError, TensorEntry, header_size, parse
from weightsync.slices import SLICES_KEY

_PREFIX_BYTES = 8
_WORTH_THREADS = 16 << 20
_THREADS = max(2, min(4, (os.cpu_count() or 1) // 2))


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What a sender announces before the first byte."""

    run_id: str
    number: int
    pusher: Pusher
    size_bytes: int
    digest: str
    request_id: str = ""


class Intake:
    """One version on its way in. One feeder at a time; calls block as long as the blob store does.

    Order: `gather` until `header_is_whole`, `begin`, then `window` and `advance` (with `prepare`
    where the window is empty) to the end. Or `reserve`, and `adopt` once somebody else wrote all.
    """

    def __init__(self, request: UploadRequest, blobs: BlobStore, max_header_bytes: int) -> None:
        self.request = request
        self.received = 0
        """How many bytes of the stream were taken."""
        self.ready = 0
        """Up to where the mapping is warm."""
        self.layout: Layout | None = None
        self.digester: StreamDigester | None = None
        self.writer: BlobWriter | None = None
        self._blobs = blobs
        self._max_header_bytes = max_header_bytes
        self._header = bytearray()
        self._header_size = _PREFIX_BYTES
        self._announced = False
        """Whether the header's length came; one of 0 is no other than that of the prefix."""

    @property
    def whole(self) -> bool:
        """Whether every byte was taken."""
        return self.layout is not None and self.received == self.request.size_bytes

    @property
    def header_is_whole(self) -> bool:
        """Whether `begin` can be called."""
        return self._announced and self.received == self._header_size

    @property
    def header_size(self) -> int:
        """How long the header is, as far as that is known."""
        return self._header_size

    def gather(self, data: memoryview) -> memoryview:
        """Takes what belongs to the header and gives the rest. Raises InvalidHeader."""
        while data and self.received < self._header_size:
            take = data[: self._header_size - self.received]
            self._header += take
            self.received += len(take)
            data = data[len(take) :]
            if self.received == _PREFIX_BYTES and not self._announced:
                self._announced = True
                try:
                    self._header_size = header_size(
                        bytes(self._header), self.request.size_bytes, self._max_header_bytes
                    )
                except LayoutError as error:
                    raise InvalidHeader(str(error), problem=error.reason) from error
        return data

    def examine(self) -> None:
        """Validates the gathered header. Raises InvalidHeader."""
        try:
            self.layout = parse(
                bytes(self._header), self.request.size_bytes, self._max_header_bytes
            )
        except LayoutError as error:
            raise InvalidHeader(str(error), problem=error.reason) from error
        self.digester = StreamDigester(self.layout)

    def check_whole(self) -> None:
        """Raises InvalidHeader for the header of a shard where a whole version is expected."""
        assert self.layout is not None
        if SLICES_KEY in self.layout.metadata:
            raise InvalidHeader(f"the header has slices ({SLICES_KEY}), and this is no shard")

    def reserve(self) -> BlobWriter:
        """Makes the blob, unless it is there. Raises StorageFull."""
        if self.writer is None:
            request = self.request
            try:
                self.writer = self._blobs.create(request.run_id, request.number, request.size_bytes)
            except StorageError as error:
                raise StorageFull(str(error)) from error
        return self.writer

    def prepare(self) -> int:
        """Warms the next window and gives where it ends. Raises StorageFull."""
        assert self.writer is not None
        try:
            self.ready = max(self.ready, self.writer.prepare(self.ready))
        except StorageError as error:
            raise StorageFull(str(error)) from error
        return self.ready

    def store_header(self) -> None:
        """Writes the validated header to its place, once that is warm."""
        assert self.writer is not None
        self.writer.view[: self._header_size] = self._header
        self._header.clear()

    def window(self, limit: int) -> memoryview:
        """Where the next bytes belong: up to `limit` of them, up to where the mapping is warm."""
        assert self.writer is not None
        end = min(self.received + limit, self.ready)
        return self.writer.view[self.received : end]

    def advance(self, count: int) -> None:
        """Takes `count` bytes that were written into the window."""
        assert self.writer is not None
        assert self.digester is not None
        end = self.received + count
        self.digester.update(self.writer.view[self.received : end])
        self.received = end

    def check_room(self, count: int) -> None:
        """Raises SizeMismatch where `count` more bytes would be more than were announced."""
        if self.received + count > self.request.size_bytes:
            raise SizeMismatch(
                f"more than the announced {self.request.size_bytes} bytes came",
                announced=self.request.size_bytes,
            )

    def segment(self) -> Path | None:
        """Where a process of this host can write the bytes by itself.

        All pages are there: running out of them would kill that process. Raises StorageFull.
        """
        writer = self.reserve()
        if writer.path is not None:
            while self.ready < self.request.size_bytes:
                self.prepare()
        return writer.path

    def adopt(self) -> None:
        """Takes what was written into the segment for the bytes of the stream.

        Raises InvalidHeader.
        """
        assert self.writer is not None
        view = self.writer.view
        try:
            self.layout = parse(view, len(view), self._max_header_bytes)
        except LayoutError as error:
            raise InvalidHeader(str(error), problem=error.reason) from error
        self.check_whole()
        self.digester = digest_all(self.layout, view[self.layout.data_offset :])
        self.received = self.request.size_bytes

    def check_complete(self) -> None:
        """Raises SizeMismatch or DigestMismatch unless exactly the announced bytes came."""
        if not self.whole or self.digester is None:
            raise SizeMismatch(
                f"{self.received} of the announced {self.request.size_bytes} bytes came",
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


def digest_all(layout: Layout, data: memoryview) -> StreamDigester:
    """The digests of a whole data section, computed on several threads."""

    def digest(entry: TensorEntry) -> str:
        return tensor_digest(data[entry.begin : entry.end])

    if len(data) < _WORTH_THREADS:
        digester = StreamDigester(layout)
        digester.update(data)
        return digester
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="weightsync-digest") as threads:
        found = threads.map(digest, layout.tensors)
        return StreamDigester.of(
            layout, {entry.name: text for entry, text in zip(layout.tensors, found, strict=True)}
        )
