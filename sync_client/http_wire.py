"""HTTP/1.1 for bulk bytes: connections that stay open, sockets read into and written from memory.

Everything here blocks and runs on another thread than the event loop, which can end it by
`Job.abort`. The server is weightsync's bulk port, a cache before it, or an object store: what a URL
needs is in its location.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sync_client import errors
from sync_client.http_answer import Answer
from sync_client.http_send import send
from sync_client.stalls import STALL_SECONDS, SYNC_BYTES_PER_SECOND
from weightsync.v1 import weights_pb2 as pb

CONNECT_SECONDS = 5.0
_IDLE_KEPT = 4
_MAX_REFUSAL = 64 << 10
_ANYWHERE = ("0.0.0.0", "::")

R = TypeVar("R")


class Unreachable(errors.ServerUnavailable):
    """Nobody listens where the URL leads, or a firewall is in between."""


@dataclass(frozen=True)
class Place:
    """Where to GET or PUT, and with which ticket."""

    secure: bool
    host: str
    port: int
    path: str
    ticket: str

    @classmethod
    def of(cls, location: pb.HttpLocation, server: str) -> Place:
        """A location of a plan from `server` ("host:port")."""
        url = urlsplit(location.url)
        secure = url.scheme == "https"
        host = url.hostname or ""
        if host in _ANYWHERE:
            host = server.rpartition("/")[2].rpartition(":")[0].strip("[]") or "localhost"
        path = url.path + (f"?{url.query}" if url.query else "")
        return cls(secure, host, url.port or (443 if secure else 80), path, location.ticket)

    @property
    def key(self) -> tuple[bool, str, int]:
        """Places with the same key share connections."""
        return self.secure, self.host, self.port


class Pool:
    """Connections that are open and idle. Safe for several threads."""

    def __init__(self) -> None:
        self._idle: dict[tuple[bool, str, int], list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()

    def take(self, place: Place, *, fresh: bool) -> http.client.HTTPConnection:
        """An idle connection, or one that is yet to be opened."""
        with self._lock:
            idle = self._idle.get(place.key)
            if idle and not fresh:
                return idle.pop()
        kind = http.client.HTTPSConnection if place.secure else http.client.HTTPConnection
        return kind(place.host, place.port, timeout=CONNECT_SECONDS)

    def give(self, place: Place, connection: http.client.HTTPConnection) -> None:
        """Back, to be used again."""
        with self._lock:
            idle = self._idle.setdefault(place.key, [])
            if len(idle) < _IDLE_KEPT:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Closes what is idle."""
        with self._lock:
            idle = [c for connections in self._idle.values() for c in connections]
            self._idle.clear()
        for connection in idle:
            connection.close()


class Job:
    """The requests of one transfer, one after the other on one thread; `abort` from any other."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._aborted = False

    def abort(self) -> None:
        """Ends the request that is under way, and refuses others."""
        with self._lock:
            self._aborted = True
            sock = None if self._connection is None else self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def get(
        self, place: Place, method: str = "GET", begin: int | None = None, end: int | None = None
    ) -> Iterator[Answer]:
        """The answer to a GET of bytes `begin` to `end`, or to a HEAD or DELETE.

        Raises Unreachable, ServerUnavailable, and what the server refuses with.
        """
        headers = {"Authorization": place.ticket} if place.ticket else {}
        if begin is not None and end is not None:
            headers["Range"] = f"bytes={begin}-{end - 1}"
        with self._connected(place) as connection:
            response = self._ask(connection, place, method, headers)
            _check(response, (200, 204, 206))
            yield Answer(response, connection.sock)

    def put(
        self,
        place: Place,
        pieces: Iterator[memoryview],
        begin: int,
        size: int,
        moved: Callable[[int], None],
    ) -> bytes:
        """Sends bytes `begin` to `size` of an upload and gives the server's answer.

        Raises as `get`, and what `pieces` and `moved` raise.
        """
        with self._connected(place) as connection:
            connection.putrequest("PUT", place.path, skip_accept_encoding=True)
            connection.putheader("Authorization", place.ticket)
            connection.putheader("Content-Length", str(size - begin))
            if begin:
                connection.putheader("Content-Range", f"bytes {begin}-{size - 1}/{size}")
            connection.endheaders()
            sock = connection.sock
            try:
                send(sock, pieces, moved)
            except (BrokenPipeError, ConnectionResetError):
                # The server has refused and closed; what it said may still be there to read.
                with contextlib.suppress(OSError, http.client.HTTPException):
                    _check(connection.getresponse(), ())
                raise
            sock.settimeout(STALL_SECONDS + size / SYNC_BYTES_PER_SECOND)
            response = connection.getresponse()
            _check(response, (201,))
            return response.read()

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        place: Place,
        method: str,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        connection.putrequest(method, place.path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse()

    @contextlib.contextmanager
    def _connected(self, place: Place) -> Iterator[http.client.HTTPConnection]:
        """A connection that was just opened or whose server is still there."""
        connection = self._pool.take(place, fresh=False)
        if connection.sock is not None and _has_ended(connection.sock):
            connection.close()
        if connection.sock is None:
            connection.timeout = CONNECT_SECONDS
            try:
                connection.connect()
            except OSError as error:
                raise Unreachable(f"{place.host}:{place.port} can't be reached: {error}") from error
        with self._lock:
            if self._aborted:
                connection.close()
                raise errors.ClientClosed("the transfer was ended")
            self._connection = connection
        connection.sock.settimeout(STALL_SECONDS)
        try:
            yield connection
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise errors.ServerUnavailable(
                f"the connection to {place.host}:{place.port} broke: {error!r}"
            ) from error
        except BaseException:
            connection.close()
            raise
        else:
            self._pool.give(place, connection)
        finally:
            with self._lock:
                self._connection = None


async def run(job: Job, work: Callable[[], R]) -> R:
    """Runs a blocking transfer on another thread.

    Who is cancelled meanwhile goes on only after the thread has let go of the tensors.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        job.abort()
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen: it says only that it was ended
        raise


def _has_ended(sock: socket.socket) -> bool:
    """Whether the server has closed an idle connection, or sent what nobody asked for."""
    try:
        sock.settimeout(0)
        return bool(sock.recv(1, socket.MSG_PEEK)) or True
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True


def _check(response: http.client.HTTPResponse, right: Sequence[int]) -> None:
    """Raises the SyncError that a refusal means."""
    if response.status in right:
        return
    text = response.read(_MAX_REFUSAL)
    try:
        content: Any = json.loads(text)
        kind = errors.BY_REASON.get(content["reason"], errors.SyncError)
        metadata = {**content["metadata"], "reason": content["reason"]}
        refused = kind(str(content["message"]), metadata)
    except (ValueError, KeyError, TypeError):
        raise errors.ServerUnavailable(
            f"an answer that no weightsync server gives: {response.status} {response.reason}"
        ) from None
    raise refused
