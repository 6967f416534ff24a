"""One connection of the bulk port, from its first request to its end, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, TypeVar

import h11
import structlog

from sync_server.bulk.feed import Feed
from sync_server.bulk.messages import (
    Head,
    HttpError,
    answer,
    body_range,
    byte_range,
    parse_head,
    refusal,
)
from sync_server.bulk.pace import TooSlow
from sync_server.bulk.tickets import Ticket, Tickets
from sync_server.bulk.wire import HeadTooLong, Wire
from sync_server.domain.errors import (
    BlobDamaged,
    DomainError,
    InvalidName,
    OffsetOutOfRange,
    ShuttingDown,
    VersionRetired,
)
from sync_server.handed_out import HandedOut
from sync_server.storage.base import BlobMissing, BlobStore
from sync_server.uploads import Uploaded
from weightsync import names

_log = structlog.get_logger(__name__)
R = TypeVar("R")

_LOOP_SECONDS = 120.0  # an answer of the event loop: a commit waits for the disk


@dataclass(frozen=True)
class Parts:
    """What every connection works with."""

    tickets: Tickets
    blobs: BlobStore
    handed_out: HandedOut
    loop: asyncio.AbstractEventLoop
    describe: Callable[[str, Uploaded], bytes]
    """The JSON of a committed version: (run id, what was uploaded) to bytes."""
    stall_seconds: float


class Exchange:
    """Reads requests and answers them until one side has enough."""

    def __init__(self, sock: socket.socket, parts: Parts) -> None:
        self._wire = Wire(sock, parts.stall_seconds)
        self._parts = parts
        self._stopping = False
        self._bodiless = False
        self.busy = False
        """Whether a request is being answered."""

    def run(self) -> None:
        """Serves the connection and closes it."""
        try:
            while not self._stopping:
                raw = self._wire.read_head()
                if raw is None:
                    return
                self.busy = True
                keep_alive = self._serve(raw)
                self.busy = False
                if not keep_alive:
                    self._wire.linger()
                    return
        except HeadTooLong:
            with contextlib.suppress(OSError):
                self._say(h11.Connection(h11.SERVER), 431, b"", "text/plain", last=True)
                self._wire.linger()
        except TooSlow as error:
            _log.info("a slow peer of the bulk port was cut off", seen=str(error))
        except OSError as error:
            _log.debug("a connection of the bulk port ended", error=str(error))
        except Exception as error:  # noqa: BLE001 - the end of a thread: nobody else would see it
            _log.error("fault", where="bulk port", exc_info=error)
        finally:
            self._wire.close()

    def stop(self) -> None:
        """Ends it from another thread: what came is still read, nothing more is sent."""
        self._stopping = True
        self._wire.interrupt()

    def _serve(self, raw: bytes) -> bool:
        """Answers the request with this head; whether another one may follow."""
        connection = h11.Connection(h11.SERVER)
        self._bodiless = raw.startswith(b"HEAD ")
        try:
            head, connection = parse_head(raw)
            return self._answer(head, connection) and head.keep_alive
        except HttpError as error:
            body = f"{error}\n".encode()
            self._say(connection, error.status, body, "text/plain", last=True)
        except names.InvalidName as error:
            self._refuse(connection, InvalidName(str(error)))
        except DomainError as error:
            self._refuse(connection, error)
        return False

    def _answer(self, head: Head, connection: h11.Connection) -> bool:
        """Raises DomainError where no byte of an answer was sent. Gives whether all was read."""
        tickets = self._parts.tickets
        if head.method == "PUT":
            ticket = tickets.open(head.authorization, "put", head.run_id, head.number)
            return self._put(head, connection, ticket)
        if head.method == "DELETE":
            ticket = tickets.open(head.authorization, "put", head.run_id, head.number)
            return self._give_up(connection, ticket)
        with contextlib.suppress(DomainError):
            ticket = tickets.open(head.authorization, "put", head.run_id, head.number)
            if head.method == "HEAD":
                return self._tell_offset(connection, ticket)
        ticket = tickets.open(head.authorization, "get", head.run_id, head.number)
        return self._get(head, connection, ticket)

    # --- reading a version

    def _get(self, head: Head, connection: h11.Connection, ticket: Ticket) -> bool:
        size = ticket.size_bytes
        chosen = byte_range(head, size)
        begin, end = chosen or (0, size)
        headers = [
            ("Content-Length", str(end - begin)),
            ("Content-Type", "application/octet-stream"),
            ("Accept-Ranges", "bytes"),
            ("ETag", f'"{ticket.digest}"'),
        ]
        if chosen is not None:
            headers.append(("Content-Range", f"bytes {begin}-{end - 1}/{size}"))
        send = head.method == "GET"
        with _blob(self._parts.blobs, ticket) as source:
            head_bytes = answer(connection, 200 if chosen is None else 206, headers)
            self._wire.send(head_bytes, more=send)
            if send and isinstance(source, int):
                self._wire.send_file(source, begin, end)
            elif send:
                assert isinstance(source, memoryview)
                with source[begin:end] as view:
                    self._wire.send_view(view)
        return True

    # --- writing a version

    def _tell_offset(self, connection: h11.Connection, ticket: Ticket) -> bool:
        session = self._call(self._parts.handed_out.acquire(ticket.target, self.stop))
        received = session.intake.received
        self._call(self._parts.handed_out.release(ticket.target))
        self._wire.send(answer(connection, 204, [("Upload-Offset", str(received))]))
        return True

    def _give_up(self, connection: h11.Connection, ticket: Ticket) -> bool:
        self._call(self._parts.handed_out.acquire(ticket.target, self.stop))
        self._call(self._parts.handed_out.drop(ticket.target))
        self._wire.send(answer(connection, 204))
        return True

    def _put(self, head: Head, connection: h11.Connection, ticket: Ticket) -> bool:
        begin, end = body_range(head, ticket.size_bytes)
        handed_out = self._parts.handed_out
        session = self._call(handed_out.acquire(ticket.target, self.stop))
        done = False
        feed = Feed(session)
        try:
            if begin != feed.received:
                raise OffsetOutOfRange(
                    f"the body begins at byte {begin}: {feed.received} came so far",
                    received=feed.received,
                )
            if head.expects_continue:
                self._wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._wire.receive(feed, end)
            if feed.whole:
                done = True
                uploaded = self._call(handed_out.finish(ticket.target))
                body = self._parts.describe(ticket.run_id, uploaded)
                self._say(connection, 201, body, "application/json")
                return True
            offset = ("Upload-Offset", str(feed.received))
            self._wire.send(answer(connection, 204, [offset]))
            return True
        except OffsetOutOfRange:
            raise
        except DomainError:
            done = True
            feed.settle()
            self._call(handed_out.drop(ticket.target))
            raise
        finally:
            feed.settle()
            if not done:
                self._call(handed_out.release(ticket.target))

    # --- answers

    def _refuse(self, connection: h11.Connection, error: DomainError) -> None:
        status, body = refusal(error)
        _log.debug("refused", where="bulk port", reason=error.reason, message=error.message)
        self._say(connection, status, body, "application/json", last=True)

    def _say(
        self,
        connection: h11.Connection,
        status: int,
        body: bytes,
        content_type: str,
        *,
        last: bool = False,
    ) -> None:
        headers = [("Content-Length", str(len(body))), ("Content-Type", content_type)]
        if last:
            headers.append(("Connection", "close"))
        self._wire.send(answer(connection, status, headers) + (b"" if self._bodiless else body))

    def _call(self, work: Coroutine[Any, Any, R]) -> R:
        """Runs something on the event loop. Raises ShuttingDown where that has ended."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._parts.loop)
        except RuntimeError as error:
            work.close()
            raise ShuttingDown("the server is about to stop") from error
        try:
            return future.result(_LOOP_SECONDS)
        except (CancelledError, FutureTimeout) as error:
            future.cancel()
            raise ShuttingDown("the server is about to stop") from error


@contextlib.contextmanager
def _blob(blobs: BlobStore, ticket: Ticket) -> Iterator[int | memoryview]:
    """A blob to send from: the warm mapping of one in memory, the descriptor of one on a disk.

    `sendfile` from tmpfs takes 1.7 times as long as a copy out of a mapping whose pages are there
    (Linux 6.18, docs/performance.md). Raises VersionRetired, BlobDamaged.
    """
    reader, fd = None, -1
    try:
        try:
            if blobs.in_memory:
                reader = blobs.open(ticket.target)
                size = len(reader.view)
            else:
                fd = blobs.open_file(ticket.target)
                size = os.fstat(fd).st_size
        except BlobMissing as error:
            raise VersionRetired(
                f"version {ticket.number} can no longer be read: {error}", version=ticket.number
            ) from error
        if size != ticket.size_bytes:
            raise BlobDamaged(f"the file of version {ticket.number} has another size")
        yield fd if reader is None else reader.view
    finally:
        if reader is not None:
            reader.close()
        if fd >= 0:
            os.close(fd)
