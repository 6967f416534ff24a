"""Memory views to a socket, many with one call."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

from sync_client.stalls import STALL_SECONDS

_VIEWS_AT_ONCE = 512  # half of what the kernel takes
_BYTES_AT_ONCE = 1 << 20


def send(sock: socket.socket, pieces: Iterator[memoryview], moved: Callable[[int], None]) -> None:
    """Sends all pieces, many views with one call where the socket can."""
    gather = not hasattr(sock, "context")  # a TLS socket encrypts each piece
    if gather:
        limit_by_kernel(sock, socket.SO_SNDTIMEO)
    for batch in _batches(pieces):
        size = sum(map(len, batch))
        if not gather:
            for piece in batch:
                sock.sendall(piece)
        else:
            _send_batch(sock, batch, size)
        moved(size)


def limit_by_kernel(sock: socket.socket, option: int) -> None:
    """Makes the socket a blocking one whose calls move all they were given.

    The kernel ends one (BlockingIOError) that moves nothing for `STALL_SECONDS`; `settimeout`
    undoes it.
    """
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(STALL_SECONDS), 0))


def _send_batch(sock: socket.socket, batch: list[memoryview], left: int) -> None:
    while left:
        try:
            sent = sock.sendmsg(batch)
        except BlockingIOError as error:
            raise TimeoutError(f"nothing moved for {STALL_SECONDS:g} s") from error
        left -= sent
        while batch and sent >= len(batch[0]):
            sent -= len(batch.pop(0))
        if sent:
            batch[0] = batch[0][sent:]


def _batches(pieces: Iterator[memoryview]) -> Iterator[list[memoryview]]:
    """A few MiB at a time: large tensors in parts, many small ones together."""
    batch: list[memoryview] = []
    size = 0
    for piece in pieces:
        at = 0
        while at < len(piece):
            part = piece[at : at + _BYTES_AT_ONCE - size]
            batch.append(part)
            at += len(part)
            size += len(part)
            if size == _BYTES_AT_ONCE or len(batch) == _VIEWS_AT_ONCE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
