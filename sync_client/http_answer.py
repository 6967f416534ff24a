"""The body of an answer, read straight from the socket into memory."""

from __future__ import annotations

import http.client
import socket

from sync_client.http_send import limit_by_kernel
from sync_client.stalls import STALL_SECONDS


class Answer:
    """An answer whose head was read."""

    def __init__(self, response: http.client.HTTPResponse, sock: socket.socket) -> None:
        self.headers = response.headers
        self.length = response.length or 0
        """Size of the body in bytes."""
        self._response = response
        self._sock = sock
        self._left = self.length
        self._direct = False

    def read(self) -> bytes:
        """All of the body. For small ones."""
        return self._response.read()

    def into(self, view: memoryview) -> int:
        """The next bytes of the body, as many as there is room for in one go; 0 at its end.

        http.client has read some along with the head; the others don't pass through it. Raises
        OSError, TimeoutError.
        """
        view = view[: self._left]
        if not view:
            return 0
        count = self._read_into(view)
        self._left -= count
        if count and not self._left and self._direct:
            self._response.close()  # it did not see the end; the connection can go on with it
        return count

    def _read_into(self, view: memoryview) -> int:
        if not self._direct:
            buffered = len(self._response.peek())
            if hasattr(self._sock, "context"):  # a TLS socket has to decrypt first
                return self._response.readinto(view)
            if buffered > len(view):
                return self._response.readinto(view)
            count = self._response.readinto(view[:buffered])
            self._direct = True
            limit_by_kernel(self._sock, socket.SO_RCVTIMEO)
            return count
        try:
            return self._sock.recv_into(view, len(view), socket.MSG_WAITALL)
        except BlockingIOError as error:
            raise TimeoutError(f"nothing came for {STALL_SECONDS:g} s") from error
