"""The reference: bytes from one process to another over a plain TCP loopback socket.

4 MiB a `sendall`, straight from tensor memory; `recv_into` a buffer that was written before, so
that no page fault is in the way. What a careful program gets without any protocol.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

PIECE_BYTES = 4 << 20
_ACK = b"\x06"


def listen() -> socket.socket:
    """A listening loopback socket on a free port."""
    return socket.create_server(("127.0.0.1", 0))


def connect(port: int) -> socket.socket:
    """The sender's end. Nagle off: the last bytes of a transfer must not wait for an ACK."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send(connection: socket.socket, views: Sequence[memoryview]) -> float:
    """Sends everything; gives the seconds until the receiver said that it has the last byte."""
    started = time.perf_counter()
    for view in views:
        for position in range(0, len(view), PIECE_BYTES):
            connection.sendall(view[position : position + PIECE_BYTES])
    if connection.recv(1) != _ACK:
        raise ConnectionError("the receiver went away")
    return time.perf_counter() - started


def receive(connection: socket.socket, buffer: memoryview) -> None:
    """Fills the buffer, 4 MiB at most a call, and acknowledges the last byte."""
    position = 0
    while position < len(buffer):
        count = connection.recv_into(buffer[position : position + PIECE_BYTES])
        if not count:
            raise ConnectionError("the sender went away")
        position += count
    connection.sendall(_ACK)
