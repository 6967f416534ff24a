"""The gRPC port, kept open: grpc.aio closes it for good at the first error of its accept loop.

A request whose path is no UTF-8 is such an error (grpcio 1.85.1, `_server_main_loop` decodes it
outside of the call): sixty bytes from anybody, and the process would live on without a port. What
grpc.aio says then is taken as the signal to serve anew, on the same port and with the same state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc.aio
import structlog

from sync_server.config import split_address

_log = structlog.get_logger(__name__)
# Where grpc.aio logs the exception that ended it, as the record's message and not as a text.
_GRPC_LOGGER = "grpc._cython.cygrpc"
# The old port is freed within milliseconds.
_BIND_ATTEMPTS = 200
_BIND_PAUSE = 0.02
# How long what was under way may go on. Not longer: a call that the dead server had taken and not
# begun is answered by nobody until then. Who is cut off after that is told so, and the SDK
# asks again: waits, watches and transfers go on over there.
_FORMER_SECONDS = 5.0


class StartError(Exception):
    """The server can't start: one line that says what to change."""


class Listener(logging.Handler):
    """A grpc.aio server that is replaced by a new one where it ends by itself."""

    def __init__(self, build: Callable[[], grpc.aio.Server], address: str) -> None:
        """`build` makes a server with its services and without a port; it is called again."""
        super().__init__()
        self._build = build
        self._address = address
        self._server: grpc.aio.Server | None = None
        # Those that ended, with the calls that were under way.
        self._former: dict[grpc.aio.Server, asyncio.Task[None]] = {}
        self._revival: asyncio.Task[None] | None = None
        self._stopping = False
        self.failed = asyncio.Event()
        """Set when there is no way to serve any more."""

    async def start(self) -> str:
        """Serves, and gives where: `host:port`. Raises StartError."""
        self._loop = asyncio.get_running_loop()
        server = self._build()
        host, _ = split_address(self._address)
        port = self._bind(server)
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        await server.start()
        self._server = server
        logging.getLogger(_GRPC_LOGGER).addHandler(self)
        return self._address

    async def stop(self, grace: float) -> None:
        """Ends what is served and what was, each call within `grace` seconds."""
        assert self._server is not None
        self._stopping = True
        logging.getLogger(_GRPC_LOGGER).removeHandler(self)
        if self._revival is not None:
            await self._revival
        for ending in self._former.values():
            ending.cancel()
        everyone = (self._server, *self._former)
        await asyncio.gather(*(server.stop(grace) for server in everyone))

    def emit(self, record: logging.LogRecord) -> None:
        """Called with everything that grpc.aio logs, on whatever thread."""
        if isinstance(record.msg, BaseException):
            self._loop.call_soon_threadsafe(self._ended, record.msg)

    def _ended(self, error: BaseException) -> None:
        if self._stopping or (self._revival is not None and not self._revival.done()):
            return
        _log.error("grpc.aio ended by itself; serving anew", error=repr(error))
        self._revival = asyncio.create_task(self._serve_anew())

    async def _serve_anew(self) -> None:
        assert self._server is not None
        former = self._server
        for _ in range(_BIND_ATTEMPTS):
            server = self._build()
            try:
                self._bind(server)
            except StartError:
                await asyncio.sleep(_BIND_PAUSE)
                continue
            await server.start()
            self._server = server
            self._former[former] = ending = asyncio.create_task(former.stop(_FORMER_SECONDS))
            ending.add_done_callback(lambda _: self._former.pop(former))
            return
        _log.error("the port can't be had again", address=self._address)
        self.failed.set()

    def _bind(self, server: grpc.aio.Server) -> int:
        try:
            return server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise StartError(
                f"can't listen on {self._address}: the port is in use, "
                "or the address is not of this machine"
            ) from error
