"""The socket of one connection: heads, bytes in, bytes out, and time-outs on all of it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from sync_server.bulk.feed import Feed
from sync_server.bulk.messages import MAX_HEAD_BYTES
from sync_server.bulk.pace import Pace, TooSlow

_IDLE_SECONDS = 75.0  # between two requests; clients and proxies give up after 60 or 75 s
_HEAD_SECONDS = 10.0  # for a head, from its first byte on
_SEND_BYTES = 8 << 20  # between two looks at the pace
_PIECE_BYTES = 1 << 20  # what was copied is still in the processor's cache then
_DRAIN_BYTES, _DRAIN_SECONDS = 64 << 20, 2.0
_END = b"\r\n\r\n"


class HeadTooLong(Exception):
    """Nobody sends such a head by mistake."""


class Wire:
    """A blocking socket with time-outs by the kernel: `MSG_WAITALL` and `sendfile` need that."""

    def __init__(self, sock: socket.socket, stall_seconds: float) -> None:
        """Cuts the peer off where next to nothing moves for `stall_seconds`."""
        self._sock = sock
        self._stall_seconds = stall_seconds
        self._buffer = bytearray()

    def read_head(self) -> bytes | None:
        """The next head with its empty line; None: the client has gone, or lets us wait.

        Raises HeadTooLong, OSError.
        """
        deadline = time.monotonic() + _IDLE_SECONDS
        begun = False
        while _END not in self._buffer:
            if self._buffer and not begun:
                begun, deadline = True, time.monotonic() + _HEAD_SECONDS
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise HeadTooLong
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._limit(left)
            try:
                data = self._sock.recv(MAX_HEAD_BYTES)
            except BlockingIOError:
                return None
            if not data:
                return None
            self._buffer += data
        self._limit(self._stall_seconds)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = self._buffer.index(_END) + len(_END)
        head = bytes(self._buffer[:end])
        del self._buffer[:end]
        return head

    def send(self, data: bytes, *, more: bool = False) -> None:
        """Sends a head or a small answer. `more`: in one packet with what follows at once."""
        flags = socket.MSG_MORE if more else 0
        try:
            self._sock.sendall(data, flags)
        except BlockingIOError as error:
            raise TooSlow("it did not take the answer") from error

    def send_file(self, fd: int, begin: int, end: int) -> None:
        """Bytes `begin` to `end` of a file, from its pages. Raises TooSlow, OSError."""
        pace = Pace(self._stall_seconds, time.monotonic())
        while begin < end:
            try:
                sent = os.sendfile(self._sock.fileno(), fd, begin, min(_SEND_BYTES, end - begin))
            except BlockingIOError as error:
                raise TooSlow("it took nothing") from error
            if sent == 0:
                raise ConnectionError("the file ended early")
            begin += sent
            pace.moved(sent, time.monotonic())

    def send_view(self, view: memoryview) -> None:
        """Bytes of a mapping. Raises TooSlow, OSError."""
        pace = Pace(self._stall_seconds, time.monotonic())
        at = 0
        while at < len(view):
            try:
                sent = self._sock.send(view[at : at + _PIECE_BYTES])
            except BlockingIOError as error:
                raise TooSlow("it took nothing") from error
            at += sent
            pace.moved(sent, time.monotonic())

    def receive(self, feed: Feed, end: int) -> None:
        """Feeds an upload up to its byte `end`. Raises TooSlow, OSError, and what `feed` raises."""
        pace = Pace(self._stall_seconds, time.monotonic())
        while feed.received < end:
            window = feed.window(min(_PIECE_BYTES, end - feed.received))
            if self._buffer:
                count = min(len(window), len(self._buffer))
                window[:count] = self._buffer[:count]
                del self._buffer[:count]
            else:
                try:
                    count = self._sock.recv_into(window, len(window), socket.MSG_WAITALL)
                except BlockingIOError as error:
                    raise TooSlow("nothing came") from error
                if count == 0:
                    raise ConnectionError("the body ended early")
            feed.advance(count)
            pace.moved(count, time.monotonic())

    def linger(self) -> None:
        """Reads what the client still sends: closing at once could take the answer back."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            self._limit(_DRAIN_SECONDS)
            deadline, left = time.monotonic() + _DRAIN_SECONDS, _DRAIN_BYTES
            while left > 0 and time.monotonic() < deadline:
                data = self._sock.recv(_PIECE_BYTES)
                if not data:
                    return
                left -= len(data)

    def interrupt(self) -> None:
        """Ends it from another thread: what came is still read, nothing more is sent."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()

    def _limit(self, seconds: float) -> None:
        whole = int(seconds)
        value = struct.pack("@ll", whole, max(1, int((seconds - whole) * 1e6)))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
