"""Versions mapped from the server's own files, where this process sees them: no byte is copied.

The server says where the file is and what stands in a challenge file beside it; who reads the same
there sees the same file system. The file is mapped copy-on-write: whoever writes into a mapped
tensor gets pages of its own, and neither the server nor anybody else ever sees that. A shared
`flock` belongs to the mapping: the server takes the file for another version only when nobody has
one, and the kernel frees it with the last tensor, or with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sync_client import errors
from sync_client.connection import Connection
from sync_client.transfer import Progress, Received, Sink
from weightsync.layout import Layout, LayoutError, UnknownTensor, header_size, parse
from weightsync.v1 import weights_pb2 as pb
from weightsync.v1 import weights_pb2_grpc

_log = logging.getLogger("weightsync")

_MAX_CHALLENGE = 4096
_PREFIX_BYTES = 8
_PIECE_BYTES = 8 << 20
# A version may be retired between the answer of the server and the lock.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Mapped:
    """A mapped version; what refers to `memory` keeps the mapping and its lock."""

    version: pb.WeightVersion
    memory: mmap.mmap
    layout: Layout

    def select(self, names: Sequence[str]) -> tuple[Layout, list[tuple[int, int]]]:
        """The layout of these tensors (none: of all), and where their bytes lie in `memory`.

        Raises TensorNotFound.
        """
        start = self.layout.data_offset
        if not names:
            return self.layout, [(start, self.layout.total_bytes)]
        try:
            layout, ranges = self.layout.select(names)
        except UnknownTensor as error:
            raise errors.TensorNotFound(f"version {self.version.version}: {error}") from error
        return layout, [(start + begin, start + end) for begin, end in ranges]

    def pieces(self, ranges: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
        """The bytes of the ranges, in pieces."""
        view = memoryview(self.memory)
        for begin, end in ranges:
            for at in range(begin, end, _PIECE_BYTES):
                yield view[at : min(at + _PIECE_BYTES, end)]


async def attach(connection: Connection, name: str) -> Mapped | None:
    """Maps a version; None where that can't be done here (another host, another container).

    That is said once in the log, and not tried again through this connection. Raises
    VersionNotFound and the like.
    """
    if connection.shared_memory is False:
        return None
    stub = weights_pb2_grpc.WeightServiceStub
    for _ in range(_ATTEMPTS):
        try:
            request = pb.PlanDownloadRequest(name=name, transports=["shared-memory"])
            plan = await connection.call(stub, "PlanDownload", request)
        except errors.Unimplemented:
            say_never(connection, "the server is of an earlier release")
            return None
        offers = [p.shared_memory for p in plan.locations if p.HasField("shared_memory")]
        if not offers:
            say_never(connection, "the server does not offer it")
            return None
        if connection.shared_memory is None:
            if not same_files(offers[0]):
                say_never(connection, "the server's files are not to be seen from here")
                return None
            connection.shared_memory = True
        mapped = _map(offers[0].path, plan.weight_version)
        if mapped is not None:
            return mapped
    return None


def copy_into(
    mapped: Mapped, names: Sequence[str], sink: Sink, progress: Progress | None
) -> Received:
    """Fills a sink from a mapped version, and verifies what arrived. Raises DigestMismatch."""
    layout, ranges = mapped.select(names)
    sink.begin(layout)
    fill = getattr(sink, "fill", None)
    if fill is not None and len(ranges) == 1:
        begin, end = ranges[0]
        fill(memoryview(mapped.memory)[begin:end])
        if progress is not None:
            progress(layout.total_bytes, layout.total_bytes)
    else:
        done = layout.data_offset
        for piece in mapped.pieces(ranges):
            sink.write(piece)
            done += len(piece)
            if progress is not None:
                progress(done, layout.total_bytes)
    found = sink.digest()
    if not names and found != mapped.version.digest:
        raise errors.DigestMismatch(
            f"{mapped.version.name}: the copied tensors have digest {found}, "
            f"not {mapped.version.digest}"
        )
    return Received(mapped.version, 0, "shared-memory")


def say_never(connection: Connection, why: str) -> None:
    """Says once, and remembers, that this connection has no shared memory."""
    connection.shared_memory = False
    _log.info("no shared memory with %s, gRPC is used: %s", connection.target.server, why)


def same_files(offer: pb.SharedMemoryLocation) -> bool:
    """Whether the challenge stands where the server says."""
    try:
        with opened(offer.challenge_path) as fd:
            return bool(offer.challenge) and os.read(fd, _MAX_CHALLENGE) == offer.challenge
    except OSError:
        return False


def _map(path: str, version: pb.WeightVersion) -> Mapped | None:
    """The version's file, locked and mapped; None where it is no longer there."""
    try:
        with opened(path) as fd:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            found, named = os.fstat(fd), os.stat(path, follow_symlinks=False)  # noqa: PTH116 - as fstat
            same = (found.st_dev, found.st_ino) == (named.st_dev, named.st_ino)
            if not same or found.st_size != version.size_bytes:
                return None
            # The mapping has a descriptor of its own, and with it the lock.
            memory = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
        size = version.size_bytes
        header = memory[: header_size(memory[:_PREFIX_BYTES], size)]
        return Mapped(version, memory, _layout(header, size))
    except (OSError, ValueError, LayoutError):
        return None


@functools.lru_cache(maxsize=8)
def _layout(header: bytes, size_bytes: int) -> Layout:
    """The layout of a header: from one version to the next it is the same."""
    return parse(header, size_bytes)


@contextlib.contextmanager
def opened(path: str, access: int = os.O_RDONLY) -> Iterator[int]:
    """A regular file; no link is followed, and nothing else that lies there is waited for."""
    fd = os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no regular file")
        yield fd
    finally:
        os.close(fd)
