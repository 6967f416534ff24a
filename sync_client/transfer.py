"""Bytes over the gRPC streams: the way that is always there.

What is sent and where it goes are small interfaces, so that tensors and files travel through the
same code; sending resumes nothing (a retry begins anew), receiving resumes where it broke off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sync_client import errors
from sync_client.connection import Connection, Patience, damaged_answer, translated
from sync_client.stalls import StallGuard
from weightsync.frames import (
    CHUNK_BYTES,
    FrameError,
    chunk_frame,
    read_download_frame,
    upload_header_frame,
)
from weightsync.layout import Layout, LayoutError, header_size, parse
from weightsync.v1 import weights_pb2 as pb

Progress = Callable[[int, int], object]
"""Called with (bytes done, bytes in all) while bytes move."""

UPLOAD = "/weightsync.v1.WeightService/UploadWeights"
_DOWNLOAD = "/weightsync.v1.WeightService/DownloadWeights"
_PREFIX_BYTES = 8
_SMALL_BYTES = 1 << 20
WORTH_A_PLAN = 1 << 20
"""Less has gone over gRPC before the server has answered where else it could go."""


class Source(Protocol):
    """Something that can be sent: `tensors.StateDictSource`, `files.FileSource`."""

    layout: Layout

    def digest(self) -> str:
        """The version digest of what is there now; reads every byte."""

    def chunks(self, chunk_bytes: int, offset: int = 0) -> Iterator[memoryview]:
        """The safetensors stream in pieces."""


class Sink(Protocol):
    """Something that can be filled: `tensors.StateDictSink`, `files.FileSink`."""

    def begin(self, layout: Layout) -> None:
        """Makes ready for this layout; called again when the transfer starts over."""

    def write(self, data: memoryview) -> None:
        """The next bytes of the data section."""

    def digest(self) -> str:
        """The version digest of what came, all of it."""


@dataclass(frozen=True)
class Received:
    """A finished download."""

    version: pb.WeightVersion
    wire_bytes: int
    transport: str = "grpc"


async def announce(header: pb.UploadWeightsHeader, source: Source) -> None:
    """Completes a header with the size and the digest of what is to be sent."""
    header.size_bytes = source.layout.total_bytes
    if header.size_bytes <= _SMALL_BYTES:  # faster than the way to another thread
        header.digest = source.digest()
    else:
        header.digest = await asyncio.get_running_loop().run_in_executor(None, source.digest)


def there_already(plan: pb.PlanUploadResponse) -> pb.UploadWeightsResponse:
    """The answer to a push whose plan says that no bytes are needed."""
    return pb.UploadWeightsResponse(weight_version=plan.weight_version, already_existed=True)


async def upload(
    connection: Connection,
    header: pb.UploadWeightsHeader,
    source: Source,
    progress: Progress | None = None,
) -> pb.UploadWeightsResponse:
    """Sends a version; `header` is from `announce`.

    The digest is computed before the bytes are sent, so tensors that change meanwhile are noticed
    (DigestMismatch) and never become a version. Repeated while the server is out of reach.
    """
    broken: list[Exception] = []

    async def frames(guard: StallGuard) -> AsyncIterator[bytes]:
        try:
            yield upload_header_frame(header)
            done = 0
            for chunk in source.chunks(CHUNK_BYTES):
                frame = chunk_frame(chunk)
                guard.moved()
                yield frame
                done += len(chunk)
                if progress is not None:
                    progress(done, header.size_bytes)
            guard.all_sent(header.size_bytes)
        except Exception as error:
            broken.append(error)
            raise

    async def once() -> pb.UploadWeightsResponse:
        method: Any = connection.channel.stream_unary(
            UPLOAD,
            request_serializer=None,
            response_deserializer=pb.UploadWeightsResponse.FromString,
        )
        guard = StallGuard()
        call = method(frames(guard), metadata=connection.target.metadata())
        guard.watch(call)
        try:
            response = await call
        except asyncio.CancelledError:
            # What the source or the callback raised: gRPC keeps it to itself and cancels the call.
            if broken:
                raise broken[0] from None
            if guard.stalled:
                raise errors.ServerUnavailable(f"{header.name}: the push does not go on") from None
            raise
        finally:
            guard.stop()
        if not isinstance(response, pb.UploadWeightsResponse):
            raise damaged_answer()
        return response

    return await connection.retrying(once)


class Incoming:
    """One download across its interruptions: where it stands and what it must continue with."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._header = bytearray()
        self._layout: Layout | None = None
        self.offset = 0
        """How many bytes of the stream came."""
        self.first: pb.DownloadWeightsHeader | None = None

    @property
    def header(self) -> pb.DownloadWeightsHeader:
        """What the server said at the start."""
        assert self.first is not None
        return self.first

    async def receive(
        self,
        connection: Connection,
        name: str,
        tensor_names: Sequence[str],
        progress: Progress | None = None,
    ) -> AsyncIterator[None]:
        """Runs streams until one reaches the end; yields after every chunk that went to the sink.

        A broken one is resumed where it broke off. Raises ServerUnavailable when that does not
        help for as long as the connection is patient, LayoutError and FrameError for damage.
        """
        patience = Patience(connection.retry_for)
        while True:
            before = self.offset
            try:
                with translated(connection.target.server):
                    async for message in self._stream(connection, name, tensor_names):
                        if isinstance(message, pb.DownloadWeightsHeader):
                            self.first = self.first or message
                            continue
                        self._write(message)
                        if progress is not None:
                            progress(self.offset, self.header.size_bytes)
                        yield
                if self._complete():
                    return
                raise errors.ServerUnavailable(f"the stream of {name} ended early")
            except errors.ServerUnavailable:
                if self.offset > before:  # it moves: be patient anew
                    patience = Patience(connection.retry_for)
                if not await patience.pause():
                    raise

    async def _stream(
        self, connection: Connection, name: str, tensor_names: Sequence[str]
    ) -> AsyncIterator[pb.DownloadWeightsHeader | memoryview]:
        request = pb.DownloadWeightsRequest(
            name=name,
            read_offset=self.offset,
            tensor_names=tensor_names,
            # What is resumed must not go on with other bytes under the same number.
            expected_digest="" if self.first is None else self.first.weight_version.digest,
        )
        method: Any = connection.channel.unary_stream(
            _DOWNLOAD,
            request_serializer=pb.DownloadWeightsRequest.SerializeToString,
            response_deserializer=None,
        )
        guard = StallGuard()
        call = method(request, metadata=connection.target.metadata())
        guard.watch(call)
        try:
            async for frame in call:
                guard.hold()
                yield read_download_frame(frame)
                guard.moved()
        except asyncio.CancelledError:
            if guard.stalled:
                raise errors.ServerUnavailable(f"{name}: the stream does not go on") from None
            raise
        finally:
            guard.stop()
            call.cancel()

    def _write(self, data: memoryview) -> None:
        if self.first is None:
            raise FrameError("the stream begins with a chunk")
        if self.offset + len(data) > self.first.size_bytes:
            raise FrameError("more bytes came than were announced")
        self.offset += len(data)
        if self._layout is None:
            data = self._write_header(data, self.first.size_bytes)
        if data:
            self._sink.write(data)

    def _complete(self) -> bool:
        return (
            self.first is not None
            and self._layout is not None
            and self.offset == self.first.size_bytes
        )

    def _write_header(self, data: memoryview, size: int) -> memoryview:
        self._header += data
        if len(self._header) < _PREFIX_BYTES:
            return data[:0]
        needed = header_size(bytes(self._header[:_PREFIX_BYTES]), size)
        if len(self._header) < needed:
            return data[:0]
        self._layout = parse(self._header, size)
        surplus = len(self._header) - needed
        self._header.clear()
        self._sink.begin(self._layout)
        return data[len(data) - surplus :]


async def download(
    connection: Connection,
    name: str,
    tensor_names: Sequence[str],
    sink: Sink,
    progress: Progress | None = None,
) -> Received:
    """Fills `sink` with a version and verifies it.

    A broken stream is resumed where it broke off; bytes that do not have their digest are fetched
    once more. Raises DigestMismatch after that, ServerUnavailable, VersionNotFound and the like.
    """
    wire_bytes = 0
    for attempt in (1, 2):
        incoming = Incoming(sink)
        try:
            async for _ in incoming.receive(connection, name, tensor_names, progress):
                pass
            header = incoming.header
            found = await asyncio.get_running_loop().run_in_executor(None, sink.digest)
            wire_bytes += incoming.offset
            if found == header.digest and header.weight_version.name == name:
                return Received(header.weight_version, wire_bytes)
            problem = (
                f"the received tensors have digest {found}, not {header.digest}"
                if found != header.digest
                else f"what came is {header.weight_version.name}"
            )
        except (LayoutError, FrameError) as error:
            wire_bytes += incoming.offset
            problem = f"the received stream is damaged: {error}"
        if attempt == 2:
            raise errors.DigestMismatch(f"{name}: {problem}")
    raise AssertionError("unreachable")
