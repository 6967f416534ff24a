"""One channel to the server: options, credentials, retries, and errors with a class."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio

from sync_client import errors, forks
from weightsync.error_details import TRAILER_KEY, decode_status

_log = logging.getLogger("weightsync")

DEFAULT_SERVER = "localhost:50051"
DEFAULT_TIMEOUT = 30.0
_FIRST_DELAY = 0.05
_MAX_DELAY = 2.0
_MAX_MESSAGE = 64 << 20  # a run with very many workers, not weights: those come in chunks

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A half-open link is noticed within 15 s instead of at the end of the long poll, and a silent
    # one, whose packets somebody still acknowledges, within 20 s: gRPC alone takes 70.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name it is how long an attempt to connect may take: with less, a server that
    # is two round trips of 100 ms away is not reached at the first attempt.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    # Each client has a connection of its own: what is wrong with one ends with its client.
    ("grpc.use_local_subchannel_pool", 1),
    # A chunk comes in one frame instead of 64: less work in putting it together.
    ("grpc.http2.max_frame_size", 4 << 20),
)

# grpc.aio says this where a server refuses a stream while a message is being sent (a race of its
# own: the failed write overtakes the server's status). Asked again, the server says why.
_LOST_ANSWER = "Internal error from Core"

R = TypeVar("R")


@dataclass(frozen=True)
class Target:
    """Where the server is and how to speak to it."""

    server: str
    token: str | None = None
    ca_cert: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    run: str = "default"

    @classmethod
    def resolve(
        cls,
        server: str | None,
        token: str | None = None,
        ca_cert: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
    ) -> Target:
        """What is not given comes from `WEIGHTSYNC_SERVER`, `WEIGHTSYNC_TOKEN` and so on."""
        environment = os.environ
        return cls(
            server or environment.get("WEIGHTSYNC_SERVER") or DEFAULT_SERVER,
            token or environment.get("WEIGHTSYNC_TOKEN"),
            ca_cert or environment.get("WEIGHTSYNC_CA_CERT"),
            cert or environment.get("WEIGHTSYNC_CERT"),
            key or environment.get("WEIGHTSYNC_KEY"),
            environment.get("WEIGHTSYNC_RUN") or "default",
        )

    def open(self) -> grpc.aio.Channel:
        """A channel on the running event loop. Raises LocalFileError for unreadable TLS files,
        InvalidArgument for half of a pair.
        """
        if (self.cert is None) != (self.key is None):  # gRPC itself aborts the process
            raise errors.InvalidArgument("cert and key are a pair: give both or none")
        if self.ca_cert is None and self.cert is None:
            return grpc.aio.insecure_channel(self.server, options=CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            _read(self.ca_cert), _read(self.key), _read(self.cert)
        )
        return grpc.aio.secure_channel(self.server, credentials, options=CHANNEL_OPTIONS)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)


class Connection:
    """A lazily opened channel. Retries what is safe to repeat: every mutation has a request id."""

    def __init__(self, target: Target, retry_for: float) -> None:
        self.target = target
        self.retry_for = retry_for
        self._channel: grpc.aio.Channel | None = None
        self._closed = False
        self._pid = os.getpid()
        self._stubs: dict[object, Any] = {}
        self._quiet = True
        self.reached = False
        """Whether the server ever answered."""
        self.shared_memory: bool | None = None
        """Whether this process sees the server's files; None: not known yet."""
        self.on_close: list[Callable[[], None]] = []
        """What is to be let go with the connection."""

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel. Raises ClientClosed, ForkedClient."""
        if self._pid != os.getpid():
            raise errors.ForkedClient(
                f"this client was made in process {self._pid} and can't be used in its child "
                f"{os.getpid()}: close clients before a fork, or start processes with spawn"
            )
        if self._closed:
            raise errors.ClientClosed("the client is closed")
        if self._channel is None:
            forks.check()
            self._channel = self.target.open()
            forks.connected.add(self)
        return self._channel

    @property
    def open(self) -> bool:
        """Whether there is a channel."""
        return self._channel is not None

    def stub(self, kind: Callable[[grpc.aio.Channel], Any]) -> Any:
        """The stub of a service, made once: making one costs more than a call."""
        channel = self.channel
        found = self._stubs.get(kind)
        if found is None:
            found = self._stubs[kind] = kind(channel)
        return found

    async def call(
        self,
        kind: Callable[[grpc.aio.Channel], Any],
        method: str,
        request: object,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Any:
        """One unary call, repeated while the server is out of reach, for `retry_for` seconds."""

        async def once() -> Any:
            answer = await getattr(self.stub(kind), method)(
                request, timeout=timeout, metadata=self.target.metadata()
            )
            if answer is None:
                raise damaged_answer()
            return answer

        return await self.retrying(once)

    async def retrying(self, once: Callable[[], Awaitable[R]], retry_for: float | None = None) -> R:
        """Calls `once` until it is not ServerUnavailable, with jittered exponential back-off."""
        patience = Patience(self.retry_for if retry_for is None else retry_for)
        while True:
            try:
                with translated(self.target.server):
                    answer = await once()
            except errors.ServerUnavailable as error:
                self._say(f"{error}; trying again", quiet=False)
                if not await patience.pause():
                    raise
            else:
                self._say(f"the server at {self.target.server} answers again", quiet=True)
                self.reached = True
                return answer

    def _say(self, text: str, *, quiet: bool) -> None:
        """One line a change, not one a try."""
        if quiet is not self._quiet:
            self._quiet = quiet
            _log.warning(text)

    async def close(self) -> None:
        """Closes the channel. Safe to call twice."""
        self._closed = True
        channel, self._channel = self._channel, None
        self._stubs.clear()
        while self.on_close:
            self.on_close.pop()()
        if channel is not None:
            await channel.close()


class Patience:
    """How long to go on trying: jittered exponential back-off within a budget of seconds."""

    def __init__(self, budget: float) -> None:
        self._until = time.monotonic() + budget
        self._delay = _FIRST_DELAY

    async def pause(self) -> bool:
        """Sleeps before the next try; False, at once, when the budget is spent."""
        left = self._until - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(left, self._delay * random.uniform(0.5, 1.0)))
        self._delay = min(self._delay * 2, _MAX_DELAY)
        return True


class translated:
    """Turns gRPC errors inside the block into SyncError."""

    def __init__(self, server: str) -> None:
        self._server = server

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            raise translate(error, self._server) from error
        if isinstance(error, grpc.aio.UsageError):
            raise errors.ClientClosed("the client is closed") from error


def translate(error: grpc.aio.AioRpcError, server: str) -> errors.SyncError:
    """The SyncError that says what a gRPC error means."""
    trailers = error.trailing_metadata()
    for key, value in trailers or ():
        if key == TRAILER_KEY and isinstance(value, bytes):
            found = _from_details(value)
            if found is not None:
                return found
    code = error.code()
    text = error.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.ServerUnavailable(f"no weightsync server answers at {server}: {text}")
    # Who cancels a call here gets asyncio.CancelledError: this one was ended over there, as
    # grpc.aio does with what it had taken but not begun when it ends by itself.
    if code is grpc.StatusCode.CANCELLED or (
        code is grpc.StatusCode.INTERNAL and text.startswith(_LOST_ANSWER)
    ):
        return errors.ServerUnavailable(f"{server} ended the call, and its answer was lost")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(f"{server} did not answer in time")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.Unimplemented(f"{server} does not implement this: {text}")
    return errors.SyncError(f"{code.name}: {text}", {"code": code.name})


def damaged_answer() -> errors.ServerUnavailable:
    """For an answer that is no message: grpc.aio logs that and gives None."""
    return errors.ServerUnavailable("the server's answer came damaged")


def new_request_id() -> str:
    """An id under which a mutation can be repeated without being applied twice."""
    return secrets.token_hex(16)


def _from_details(value: bytes) -> errors.SyncError | None:
    try:
        _, message, details = decode_status(value)
    except ValueError:
        return None
    if details is None:
        return None
    kind = errors.BY_REASON.get(details.reason, errors.SyncError)
    return kind(message, {**details.metadata, "reason": details.reason})


def _read(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise errors.LocalFileError(f"can't read {path}: {error.strerror}") from error
