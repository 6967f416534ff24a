"""Pushes into a segment of the server, where this process sees its files: one copy, no socket.

The server hands a segment out, with all of its pages. The upload's stream is open while it is being
filled, so a client that dies is noticed at once; what lies in the segment is verified by the server
against the digest that was computed from the tensors before, as over any other way.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sync_client import errors
from sync_client.connection import Connection, damaged_answer
from sync_client.shared_memory import opened, same_files, say_never
from sync_client.transfer import UPLOAD, Progress, Source, there_already
from weightsync.frames import upload_header_frame
from weightsync.v1 import weights_pb2 as pb
from weightsync.v1 import weights_pb2_grpc

_PIECE_BYTES = 4 << 20  # larger ones would have small tensors joined, in memory of their own
_THREADS = 2  # two cores write memory as fast as four
_PENDING = 8  # pieces that are on their way: of a tensor on a GPU each is a copy
_MADV_POPULATE_WRITE = 23  # not in the mmap module yet
_KEPT = 3  # a server with two versions and a spare has that many


async def push_shared(
    connection: Connection,
    header: pb.UploadWeightsHeader,
    source: Source,
    progress: Progress | None,
) -> pb.UploadWeightsResponse | None:
    """Pushes through a segment; None where that can't be done here.

    `header` has its size and digest. Raises what an upload raises.
    """
    if connection.shared_memory is False:
        return None
    stub = weights_pb2_grpc.WeightServiceStub
    try:
        plan = await connection.call(stub, "PlanUpload", _request(header))
    except errors.Unimplemented:
        say_never(connection, "the server is of an earlier release")
        return None
    if plan.HasField("weight_version"):
        return there_already(plan)
    offers = [p.shared_memory for p in plan.locations if p.HasField("shared_memory")]
    if not offers:
        return None
    if connection.shared_memory is None:
        if not same_files(offers[0]):
            say_never(connection, "the server's files are not to be seen from here")
            return None
        connection.shared_memory = True
    segments = _segments.get(connection)
    if segments is None:
        segments = _segments[connection] = Segments()
        connection.on_close.append(segments.close)
    memory = segments.map(offers[0].path, header.size_bytes)
    if memory is None:
        return None
    return await _fill_and_commit(connection, header, offers[0].path, memory, source, progress)


def _request(header: pb.UploadWeightsHeader) -> pb.PlanUploadRequest:
    return pb.PlanUploadRequest(header=header, transports=["shared-memory"])


async def _fill_and_commit(
    connection: Connection,
    header: pb.UploadWeightsHeader,
    path: str,
    memory: mmap.mmap,
    source: Source,
    progress: Progress | None,
) -> pb.UploadWeightsResponse:
    claim = pb.UploadWeightsHeader()
    claim.CopyFrom(header)
    claim.segment = path
    broken: list[BaseException] = []

    async def frames() -> AsyncIterator[bytes]:
        yield upload_header_frame(claim)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, fill, memory, source, progress)
        except BaseException as error:
            broken.append(error)
            raise

    method: Any = connection.channel.stream_unary(
        UPLOAD,
        request_serializer=None,
        response_deserializer=pb.UploadWeightsResponse.FromString,
    )
    call = method(frames(), metadata=connection.target.metadata())
    try:
        response = await call
    except asyncio.CancelledError:
        # What the source or the callback raised: gRPC keeps it to itself and cancels the call.
        if broken and not isinstance(broken[0], asyncio.CancelledError):
            raise broken[0] from None
        raise
    if not isinstance(response, pb.UploadWeightsResponse):
        raise damaged_answer()
    return response


def fill(memory: mmap.mmap, source: Source, progress: Progress | None) -> None:
    """Copies the stream of `source` into `memory`, on several threads."""
    import numpy  # only where tensors move

    target = numpy.frombuffer(memory, numpy.uint8)
    total, position = len(target), 0
    pending: list[tuple[Future[None], int]] = []

    def settle(count: int) -> None:
        while len(pending) > count:
            copied, end = pending.pop(0)
            copied.result()
            if progress is not None:
                progress(end, total)

    with ThreadPoolExecutor(_THREADS) as threads:
        for piece in source.chunks(_PIECE_BYTES):
            end = position + len(piece)
            given = numpy.frombuffer(piece, numpy.uint8)
            pending.append((threads.submit(numpy.copyto, target[position:end], given), end))
            position = end
            settle(_PENDING)
        settle(0)


class Segments:
    """The server's segments that this client has mapped for writing.

    They are used again and again, in turns, and mapping a GiB anew takes twice as long as copying
    into it (a page table entry for every 4 KiB). Those that the server has let go are let go, too.
    """

    def __init__(self) -> None:
        self._maps: dict[tuple[int, int], tuple[mmap.mmap, int]] = {}

    def map(self, path: str, size_bytes: int) -> mmap.mmap | None:
        """The segment, mapped for writing; None where it can't be written from here."""
        for key, (memory, fd) in list(self._maps.items()):
            if not os.fstat(fd).st_nlink:
                self._drop(key, memory, fd)
        try:
            with opened(path, os.O_RDWR) as fd:
                found = os.fstat(fd)
                if found.st_size != size_bytes:
                    return None
                key = (found.st_dev, found.st_ino)
                if key in self._maps:
                    self._maps[key] = self._maps.pop(key)  # the youngest
                    return self._maps[key][0]
                memory = mmap.mmap(fd, size_bytes)
                kept = os.dup(fd)
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError, ValueError):  # an old kernel: then page by page
            memory.madvise(_MADV_POPULATE_WRITE)
        self._maps[key] = (memory, kept)
        for old in list(self._maps)[:-_KEPT]:
            self._drop(old, *self._maps[old])
        return memory

    def close(self) -> None:
        """Unmaps all of them."""
        for key, (memory, fd) in list(self._maps.items()):
            self._drop(key, memory, fd)

    def _drop(self, key: tuple[int, int], memory: mmap.mmap, fd: int) -> None:
        del self._maps[key]
        os.close(fd)
        # An array of a failed copy may still hold it; then it goes with that one.
        with contextlib.suppress(BufferError):
            memory.close()


_segments: weakref.WeakKeyDictionary[Connection, Segments] = weakref.WeakKeyDictionary()
